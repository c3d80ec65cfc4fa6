#!/usr/bin/env bash
# From a Kafka REST proxy and MSK Connect, docs/moving-over/rest-proxy-msk-connect.md: the S3 sink
# connector's objects are imported, new records are posted as before, and eight answers are printed.
#
# OLD_ID   begins the names of the old topics, 0a1b2c3d4e5f unless set: 0a1b2c3d4e5f.pin, .geo and
#          .user
# PREFIX   key prefix of the connector's objects, topics unless set
# The rest is in common.sh.

source "$(dirname "$0")/common.sh"
id=${OLD_ID:-0a1b2c3d4e5f}

aliases "Pin=$id.pin" "Geo=$id.geo" "User=$id.user"

import_topics "${PREFIX:-topics}" "$id.pin" "$id.geo" "$id.user"

echo "── New records are posted as before"
reach_ingest
for kind in pin geo user; do
  records "$kind" | while IFS= read -r record || [ -n "$record" ]; do
    # requests.post(".../topics/0a1b2c3d4e5f.pin", headers=headers, data=payload)
    send "$ingest/topics/$id.$kind" --request POST \
      --header 'Content-Type: application/vnd.kafka.json.v2+json' \
      --data-raw "{\"records\": [{\"value\": $record}]}"
  done
done

answers
