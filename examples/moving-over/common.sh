# What the scripts of this folder share. Each begins with `source common.sh`.
#
# NAMESPACE, PIPELINE   the pipeline, data/pinterest unless set
# INGEST                URL of its ingest; a port-forward of the script's own unless set
# RECORDS               folder with the records to send, examples/moving-over/records unless set:
#                       pin.ndjson, geo.ndjson and user.ndjson, one record a line
# OLD_BUCKET, OLD_ENDPOINT, OLD_REGION, OLD_SECRET
#                       where the old objects are; in the archive's bucket unless set. OLD_SECRET is
#                       a Secret with accessKeyId and secretAccessKey
# RUN                   begins the names of the Jobs, moving unless set

set -euo pipefail

namespace=${NAMESPACE:-data}
pipeline=${PIPELINE:-pinterest}
run=${RUN:-moving}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

old_bucket=()
if [ -n "${OLD_BUCKET:-}" ]; then
  old_bucket=(
    --set "source.bucket=$OLD_BUCKET"
    --set "source.endpoint=${OLD_ENDPOINT:-}"
    --set "source.region=${OLD_REGION:-}"
    --set "source.credentialsSecret=${OLD_SECRET:-}"
  )
fi

# Waits until a Job has ended, an hour at most. Prints its log and fails if the Job has.
ended() {
  local state="" end=$((SECONDS + 3600))
  until [[ $state == *Complete* ]]; do
    state=$(kubectl --namespace "$namespace" get job "$1" \
      --output 'jsonpath={.status.conditions[?(@.status=="True")].type}')
    if [[ $state == *Failed* ]] || ((SECONDS > end)); then
      kubectl --namespace "$namespace" logs "job/$1" --tail=20 >&2
      return 1
    fi
    sleep 1
  done
}

# Imports objects: import_objects --set prefix=…
import_objects() {
  echo "── Old objects are imported"
  helm install "$run-import" "$root/charts/pinpipe-job" --namespace "$namespace" \
    --set "pipeline=$pipeline,command=import" ${old_bucket[@]+"${old_bucket[@]}"} "$@"
  ended "$run-import"
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
  kubectl --namespace "$namespace" create job "$run-batch" --from "cronjob/$pipeline-batch"
  ended "$run-batch"
  kubectl --namespace "$namespace" logs "job/$run-batch" | grep -v '^{'
}
