#!/usr/bin/env bash
# From Databricks, docs/moving-over/databricks.md: the objects of the bucket that the notebooks have
# mounted are imported with the keys they use, and eight answers are printed.
#
# OLD_BUCKET   the mounted bucket, and OLD_SECRET with its keys: see common.sh
# OLD_ID       begins the names of the topics in the objects' keys, 0a1b2c3d4e5f unless set
# PREFIX       key prefix of the objects, topics unless set
# The rest is in common.sh.

source "$(dirname "$0")/common.sh"
id=${OLD_ID:-0a1b2c3d4e5f}
: "${OLD_BUCKET:?set it to the bucket that the notebooks have mounted}"
: "${OLD_SECRET:?set it to a Secret with its accessKeyId and secretAccessKey}"

import_topics "${PREFIX:-topics}" "$id.pin" "$id.geo" "$id.user"

answers
