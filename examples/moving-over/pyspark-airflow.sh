#!/usr/bin/env bash
# From PySpark and Airflow, docs/moving-over/pyspark-airflow.md: the raw objects that the Spark job
# read are imported, the DAG's schedule is taken over, and eight answers are printed.
#
# OLD_ID     begins the names of the topics in the objects' keys, 0a1b2c3d4e5f unless set
# PREFIX     key prefix of the objects, topics unless set
# SCHEDULE   the DAG's schedule_interval as five fields of cron, "0 10 * * *" unless set
# The rest is in common.sh.

source "$(dirname "$0")/common.sh"
id=${OLD_ID:-0a1b2c3d4e5f}

import_topics "${PREFIX:-topics}" "$id.pin" "$id.geo" "$id.user"

echo "── The batch runs when the DAG did"
kubectl --namespace "$namespace" patch pinterestpipeline "$pipeline" --type merge \
  --patch "{\"spec\": {\"batch\": {\"schedule\": \"${SCHEDULE:-0 10 * * *}\"}}}"

answers
