#!/usr/bin/env bash
# Requests as scripts of existing pipelines send them, to the ingest service of a pipeline with the
# topics $PREFIX.pin, .geo and .user.
#
#     INGEST=http://localhost:8080 PREFIX=data.pinterest ./http.sh
#
# Prints for each case: its name, the wanted status, the status, the beginning of the answer. With
# ANSWERS=FOLDER, each whole answer is kept there. A status alone proves nothing: the test that runs
# this compares the answers and the topics, too.
I=${INGEST:-http://localhost:8080}; P=${PREFIX:-data.pinterest}; cd "$(dirname "$0")"; bad=0; B=$(mktemp)
try() { # name, wanted status, curl args
  local name=$1 want=$2; shift 2
  local got; got=$(curl -s -o "$B" -w '%{http_code}' "$@"); [ "$got" = "$want" ] || bad=$((bad + 1))
  if [ -n "${ANSWERS:-}" ]; then cp "$B" "$ANSWERS/$name"; fi
  printf '%-28s wanted %s got %s %s %s\n' "$name" "$want" "$got" "$([ "$got" = "$want" ] && echo ok || echo WRONG)" "$(head -c 140 "$B")"
}
J='Content-Type: application/json'; R='Content-Type: application/vnd.kafka.json.v2+json'
PIN='{"index":7528,"unique_id":"u1"}'
try F01-trailing-slash      202 -XPOST $I/pin/  -H "$J" -d "$PIN"
try F01-slash-on-geo        202 -XPOST $I/geo/  -H "$J" -d '{"ind":7528}'
try F01-double-slash        202 -XPOST $I//pin  -H "$J" -d "$PIN"
try F01-query-string        202 -XPOST "$I/pin?x=1" -H "$J" -d "$PIN"
try F02-topics-path         200 -XPOST $I/topics/$P.pin -H "$R" -d @f02-restproxy-pin.json
try F02-keyed               200 -XPOST $I/topics/$P.geo -H "$R" -d @f02-restproxy-keyed.json
try F02-unknown-topic       404 -XPOST $I/topics/elsewhere -H "$R" -d @f02-restproxy-pin.json
try F02-envelope-on-pin     422 -XPOST $I/pin   -H "$J" -d @f02-restproxy-pin.json
try F03-put-record          200 -XPUT  $I/streams/$P.pin/record  -H "$J" -d @f03-kinesis-object.json
try F03-put-record-base64   200 -XPUT  $I/streams/$P.pin/record  -H "$J" -d @f03-kinesis-base64.json
try F03-put-records         200 -XPUT  $I/streams/$P.pin/records -H "$J" -d @f03-kinesis-batch-lowercase.json
try F04-index-for-ind-geo   202 -XPOST $I/geo   -H 'Content-Type: application/x-ndjson' --data-binary @f04-geo-index.ndjson
try F04-index-for-ind-user  202 -XPOST $I/user  -H 'Content-Type: application/x-ndjson' --data-binary @f04-user-index.ndjson
try F05-idx                 422 -XPOST $I/pin   -H 'Content-Type: application/x-ndjson' --data-binary @f05-pin-idx.ndjson
try F07-byte-order-mark     202 -XPOST $I/pin   -H "$J" --data-binary @f07-bom/data_1.json
try F17-double-encoded      422 -XPOST $I/pin   -H "$J" --data-binary @f17-double-encoded.json
try F17-python-literal      400 -XPOST $I/geo   -H "$J" --data-binary @f17-python-literal.txt
try F42-surrogates          202 -XPOST $I/pin   -H 'Content-Type: application/x-ndjson' --data-binary @f42-surrogates.ndjson
try F45-ndjson              202 -XPOST $I/pin   -H 'Content-Type: application/ndjson' -d "$PIN"
try F45-jsonl               202 -XPOST $I/pin   -H 'Content-Type: application/jsonl' -d "$PIN"
try F45-no-type             202 -XPOST $I/pin   -H 'Content-Type:' -d "$PIN"          # what Python's requests sends with data=json.dumps(…)
try F45-form-type           202 -XPOST $I/pin   -d "$PIN"                             # what curl -d sends
Z=$(mktemp); printf '%s' "$PIN" | gzip > "$Z"
try F45-gzip                202 -XPOST $I/pin   -H "$J" -H 'Content-Encoding: gzip' --data-binary @"$Z"
try F45-expect-100          202 -XPOST $I/pin   -H "$J" -H 'Expect: 100-continue' -d "$PIN"
echo "$bad wrong"; [ $bad = 0 ]
