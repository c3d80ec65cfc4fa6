#!/usr/bin/env bash
# From FastAPI and kafka-python, docs/moving-over/fastapi-kafka-python.md: the objects that the
# batch consumer wrote are imported, new records are posted as before, and eight answers are printed.
#
# PREFIX   key prefix of the old objects, events unless set: <PREFIX>/pin/event-….json, geo, user
# The rest is in common.sh.

source "$(dirname "$0")/common.sh"
prefix=${PREFIX:-events}

import_objects "$prefix"

echo "── New records are posted as before"
reach_ingest
for kind in pin geo user; do
  records "$kind" | while IFS= read -r record || [ -n "$record" ]; do
    # requests.post("http://localhost:8000/pin/", json=record)
    send "$ingest/$kind/" --header 'Content-Type: application/json' --data-raw "$record"
  done
done

answers
