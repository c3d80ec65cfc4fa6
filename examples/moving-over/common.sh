# What the scripts of this folder share. Each begins with `source common.sh`.
#
# NAMESPACE, PIPELINE   the pipeline, data/pinterest unless set
# INGEST                URL of its ingest; a port-forward of the script's own unless set
# RECORDS               folder with the records to send, examples/moving-over/records unless set:
#                       pin.ndjson, geo.ndjson and user.ndjson, one record a line
# OLD_BUCKET, OLD_ENDPOINT, OLD_REGION, OLD_SECRET
#                       where the old objects are; in the archive's bucket unless set. OLD_SECRET is
#                       a Secret with accessKeyId and secretAccessKey
# RUN                   begins the names of the PinterestRuns, moving unless set

set -euo pipefail

namespace=${NAMESPACE:-data}
pipeline=${PIPELINE:-pinterest}
run=${RUN:-moving}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# What a run says about the bucket with the old objects.
old_bucket=""
if [ -n "${OLD_BUCKET:-}" ]; then
  s3=${OLD_ENDPOINT:+endpoint: "$OLD_ENDPOINT", }${OLD_REGION:+region: "$OLD_REGION", }
  s3+=${OLD_SECRET:+credentialsSecretRef: {name: "$OLD_SECRET"\}}
  old_bucket=", bucket: \"$OLD_BUCKET\"${s3:+, s3: {${s3%, }\}}"
fi

# Creates a PinterestRun, and waits until it has ended, an hour at most. Fails if it has not
# succeeded: run_to_end moving-batch "batch: {}"
run_to_end() {
  local phase="" end=$((SECONDS + 3600))
  kubectl --namespace "$namespace" create --filename - <<RUN
apiVersion: pinpipe.dev/v1alpha1
kind: PinterestRun
metadata: {name: "$1"}
spec: {pipelineRef: {name: "$pipeline"}, $2}
RUN
  until [[ $phase =~ ^(Succeeded|Failed|Refused)$ ]] || ((SECONDS > end)); do
    sleep 1
    phase=$(kubectl --namespace "$namespace" get pinterestrun "$1" \
      --output 'jsonpath={.status.phase}')
  done
  kubectl --namespace "$namespace" get pinterestrun "$1"
  [ "$phase" = Succeeded ]
}

# Imports the objects of an S3 sink connector, <prefix>/<topic>/…:
# import_topics PREFIX PIN_TOPIC GEO_TOPIC USER_TOPIC
import_topics() {
  echo "── Old objects are imported"
  local topics="{name: \"$2\", kind: Pin}, {name: \"$3\", kind: Geo}, {name: \"$4\", kind: User}"
  run_to_end "$run-import" \
    "import: {layout: Connector, prefix: \"$1\", topics: [$topics]$old_bucket}"
}

# Imports other objects, <prefix>/pin/…, <prefix>/geo/… and <prefix>/user/…: import_objects PREFIX
import_objects() {
  echo "── Old objects are imported"
  local kind folder
  for kind in Pin/pin Geo/geo User/user; do
    folder=${kind#*/}
    run_to_end "$run-import-$folder" \
      "import: {layout: Objects, prefix: \"$1/$folder\", kind: ${kind%/*}$old_bucket}"
  done
}

# The records of a kind, one a line: records pin
records() {
  cat "${RECORDS:-$root/examples/moving-over/records}/$1.ndjson"
}

# Sends a request as an old script does, and fails unless it is answered with success.
send() {
  curl --silent --show-error --fail-with-body --output /dev/null "$@"
}

# Sets `ingest` to the URL of the pipeline's ingest. A port-forward ends with the pod it leads to,
# so it must begin when the pipeline is as it will be.
reach_ingest() {
  ingest=${INGEST:-}
  if [ -n "$ingest" ]; then return; fi
  local forward log line
  log=$(mktemp)
  kubectl --namespace "$namespace" port-forward "service/$pipeline-ingest" :8080 >"$log" &
  forward=$!
  # shellcheck disable=SC2064
  trap "kill $forward; rm -f '$log'" EXIT
  until line=$(grep -m 1 -o '127\.0\.0\.1:[0-9]*' "$log"); do
    kill -0 "$forward"
    sleep 0.2
  done
  ingest=http://$line
}

# Gives the topics further names, besides those they have: aliases Pin=0a1b.pin Geo=0a1b.geo …
aliases() {
  echo "── The pipeline takes the old names"
  local list known alias name
  list=$(kubectl --namespace "$namespace" get pinterestpipeline "$pipeline" \
    --output 'jsonpath={.spec.ingest.aliases}')
  known=$(kubectl --namespace "$namespace" get pinterestpipeline "$pipeline" \
    --output 'jsonpath={.spec.ingest.aliases[*].name}')
  list=${list#\[}
  list=${list%\]}
  for alias in "$@"; do
    name=${alias#*=}
    if [[ " $known " != *" $name "* ]]; then
      list+="${list:+, }{\"name\": \"$name\", \"kind\": \"${alias%%=*}\"}"
    fi
  done
  kubectl --namespace "$namespace" patch pinterestpipeline "$pipeline" --type merge \
    --patch "{\"spec\": {\"ingest\": {\"aliases\": [$list]}}}"
  local generation
  generation=$(kubectl --namespace "$namespace" get pinterestpipeline "$pipeline" \
    --output 'jsonpath={.metadata.generation}')
  kubectl --namespace "$namespace" wait "pinterestpipeline/$pipeline" --timeout 5m \
    --for "jsonpath={.status.observedGeneration}=$generation"
  kubectl --namespace "$namespace" rollout status "deployment/$pipeline-ingest" --timeout 5m
  kubectl --namespace "$namespace" wait "pinterestpipeline/$pipeline" --timeout 5m \
    --for condition=Ready
}

# Runs the batch now, and prints the eight answers.
answers() {
  echo "── The batch runs"
  run_to_end "$run-batch" "batch: {}"
  local job
  job=$(kubectl --namespace "$namespace" get pinterestrun "$run-batch" \
    --output 'jsonpath={.status.job}')
  kubectl --namespace "$namespace" logs "job/$job" | grep -v '^{'
}
