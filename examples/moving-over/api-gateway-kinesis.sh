#!/usr/bin/env bash
# From an API gateway and Kinesis, docs/moving-over/api-gateway-kinesis.md: tables that were
# exported as JSON are imported, new records are sent as before, and eight answers are printed.
#
# OLD_ID   part of the names of the old streams, 0a1b2c3d4e5f unless set:
#          streaming-0a1b2c3d4e5f-pin, -geo, -user
# PREFIX   key prefix of the exported tables, export unless set: <PREFIX>/pin/part-….json, geo, user
# The rest is in common.sh.

source "$(dirname "$0")/common.sh"
id=${OLD_ID:-0a1b2c3d4e5f}
prefix=${PREFIX:-export}

aliases "Pin=streaming-$id-pin" "Geo=streaming-$id-geo" "User=streaming-$id-user"

import_objects "$prefix"

echo "── New records are sent as before"
reach_ingest
for kind in pin geo user; do
  stream="streaming-$id-$kind"
  records "$kind" | while IFS= read -r record || [ -n "$record" ]; do
    # requests.request("PUT", ".../streams/streaming-0a1b2c3d4e5f-pin/record", ...)
    send "$ingest/streams/$stream/record" --request PUT \
      --header 'Content-Type: application/json' \
      --data-raw "{\"StreamName\": \"$stream\", \"Data\": $record, \"PartitionKey\": \"p-1\"}"
  done
done

answers
