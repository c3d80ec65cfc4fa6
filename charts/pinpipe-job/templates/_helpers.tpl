{{/* Fails when a parameter is missing or belongs to another command. */}}
{{- define "pinpipe-job.check" -}}
{{- $parameters := dict
  "run" (list)
  "full" (list)
  "backfill" (list "from" "to")
  "import" (list "prefix" "topics" "events")
  "redrive" (list "reason" "field" "since" "until" "topic" "outcome" "max" "force" "dryRun") }}
{{- $own := index $parameters .Values.command }}
{{- range $command, $names := $parameters }}
{{- range $name := $names }}
{{- if and (index $.Values $name) (not (has $name $own)) }}
{{- fail (printf "%s is a parameter of command=%s, not of command=%s: leave it out, or set the command it is for" $name $command $.Values.command) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and (eq .Values.command "backfill") (not (or .Values.from .Values.to)) }}
{{- fail "command=backfill needs from, to or both: --set from=2026-01-01T00:00:00Z,to=2026-02-01T00:00:00Z" }}
{{- end }}
{{- if and (eq .Values.command "import") (not (or .Values.prefix .Values.events)) }}
{{- fail "command=import needs prefix, events or both: the key prefixes of what is to be loaded (--set events.pin=events)" }}
{{- end }}
{{- range $name, $value := .Values.source }}
{{- if and $value (ne $.Values.command "import") }}
{{- fail (printf "source.%s is a parameter of command=import, not of command=%s" $name $.Values.command) }}
{{- end }}
{{- if and $value (not $.Values.source.bucket) }}
{{- fail (printf "source.%s needs source.bucket, the bucket that it is for" $name) }}
{{- end }}
{{- end }}
{{- if hasPrefix "s3://" (.Values.prefix | default "") }}
{{- fail "prefix is a prefix of keys such as topics, not a URL: the bucket is source.bucket" }}
{{- end }}
{{- range $kind, $prefix := .Values.events }}
{{- if not $prefix }}
{{- fail (printf "events.%s is empty: set it to the prefix of the objects' keys, or to / for a whole bucket of their own" $kind) }}
{{- end }}
{{- if hasPrefix "s3://" $prefix }}
{{- fail (printf "events.%s is a prefix of keys such as events, not a URL: the bucket is source.bucket" $kind) }}
{{- end }}
{{- end }}
{{- if and .Values.topics (not .Values.prefix) }}
{{- fail "topics needs prefix: the prefix of the folders with the names of these topics, or / for the whole bucket" }}
{{- end }}
{{- if .Release.IsUpgrade }}
{{- fail (printf "a Job can't be changed once it runs: install another release, and uninstall %s" .Release.Name) }}
{{- end }}
{{- end }}

{{/*
The pipeline's CronJob, as YAML: the value cronJob, or else the one in the cluster. Only the operator can
make its template (the ConfigMap's name is a hash of its content), so without either this fails: a chart
that renders nothing would look like success. (`helm lint` takes `fail` for a remark, and goes on.)
*/}}
{{- define "pinpipe-job.cronJob" -}}
{{- $name := printf "%s-batch" .Values.pipeline }}
{{- $found := dict }}
{{- if .Values.cronJob }}
{{- $found = .Values.cronJob | fromYaml }}
{{- if ne (dig "metadata" "name" "" $found) $name }}
{{- fail (printf "the value cronJob isn't the CronJob %s of the pipeline %s: %s" $name .Values.pipeline (include "pinpipe-job.give" .)) }}
{{- end }}
{{- else }}
{{- /* A list of the namespace's, perhaps empty. It is nothing at all when helm has no cluster to ask. */}}
{{- $listed := lookup "batch/v1" "CronJob" .Release.Namespace "" }}
{{- range $listed.items }}
{{- if and (eq .metadata.name $name) (eq (dig "labels" "app.kubernetes.io/managed-by" "" .metadata) "pinpipe-operator") }}
{{- $found = . }}
{{- end }}
{{- end }}
{{- if not $listed }}
{{- fail (printf "helm has no access to a cluster here (helm template, --dry-run=client, Argo CD), and the Job is made of the CronJob %s in it: use `helm install`, or %s" $name (include "pinpipe-job.give" .)) }}
{{- else if not $found }}
{{- fail (printf "the namespace %s has no CronJob %s of the operator's: is there a PinterestPipeline %s with spec.batch, and are its Secrets there? (kubectl -n %s get pinterestpipelines)" .Release.Namespace $name .Values.pipeline .Release.Namespace) }}
{{- end }}
{{- end }}
{{- toYaml $found }}
{{- end }}

{{/* How to give helm the CronJob. */}}
{{- define "pinpipe-job.give" -}}
give it: kubectl -n {{ .Release.Namespace }} get cronjob {{ .Values.pipeline }}-batch -o yaml > cronjob.yaml, and --set-file cronJob=cronjob.yaml
{{- end }}

{{/* The variables that parametrize a batch run, as YAML. */}}
{{- define "pinpipe-job.env" -}}
{{- $env := list }}
{{- if eq .Values.command "full" }}
{{- $env = append $env (dict "name" "PINPIPE_FULL" "value" "true") }}
{{- end }}
{{- $folders := list }}
{{- range $kind, $prefix := .Values.events }}
{{- $folders = append $folders (printf "%s=%s" $kind $prefix) }}
{{- end }}
{{- with join "," $folders }}
{{- $env = append $env (dict "name" "PINPIPE_IMPORT_EVENTS" "value" .) }}
{{- end }}
{{- $topics := list }}
{{- range $kind, $names := .Values.topics }}
{{- range $name := kindIs "slice" $names | ternary $names (list $names) }}
{{- $topics = append $topics (printf "%s=%s" $kind $name) }}
{{- end }}
{{- end }}
{{- with join "," $topics }}
{{- $env = append $env (dict "name" "PINPIPE_IMPORT_TOPICS" "value" .) }}
{{- end }}
{{- with .Values.source }}
{{- range $value, $variable := dict "bucket" "PINPIPE_IMPORT_BUCKET" "endpoint" "PINPIPE_IMPORT_ENDPOINT" "region" "PINPIPE_IMPORT_REGION" "virtualHost" "PINPIPE_IMPORT_VIRTUAL_HOST" }}
{{- with index $.Values.source $value }}
{{- $env = append $env (dict "name" $variable "value" (toString .)) }}
{{- end }}
{{- end }}
{{- if .credentialsSecret }}
{{- $env = append $env (dict "name" "PINPIPE_IMPORT_CREDENTIALS" "value" (printf "%s/credentials" (include "pinpipe-job.folder" $))) }}
{{- end }}
{{- if .caSecret }}
{{- $env = append $env (dict "name" "PINPIPE_IMPORT_CA" "value" (printf "%s/ca/ca.crt" (include "pinpipe-job.folder" $))) }}
{{- end }}
{{- end }}
{{- range $value, $variable := dict "from" "PINPIPE_FROM" "to" "PINPIPE_TO" "prefix" "PINPIPE_IMPORT" }}
{{- with index $.Values $value }}
{{- $env = append $env (dict "name" $variable "value" (toString .)) }}
{{- end }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/*
The folder of the Secrets of an import's bucket. The import's manifest names it, so another import's pod,
which may resume this one, must not have its own there.
*/}}
{{- define "pinpipe-job.folder" -}}
/etc/pinpipe/import/{{ .Release.Name }}
{{- end }}

{{/*
The names of the Secrets of an import's bucket by the folders they are mounted in, as YAML. One that isn't
there doesn't hold the pod back: the worker says so.
*/}}
{{- define "pinpipe-job.secrets" -}}
{{- $secrets := dict }}
{{- with .Values.source }}
{{- with .credentialsSecret }}
{{- $_ := set $secrets "credentials" . }}
{{- end }}
{{- with .caSecret }}
{{- $_ := set $secrets "ca" . }}
{{- end }}
{{- end }}
{{- toYaml $secrets }}
{{- end }}

{{/* The worker's arguments, as YAML. A batch run has none. */}}
{{- define "pinpipe-job.args" -}}
{{- $args := list }}
{{- if eq .Values.command "redrive" }}
{{- $args = list "redrive" }}
{{- range $name := list "reason" "field" "since" "until" "topic" "outcome" }}
{{- with index $.Values $name }}
{{- $args = concat $args (list (printf "--%s" $name) (kindIs "slice" . | ternary (join "," .) (toString .))) }}
{{- end }}
{{- end }}
{{- with .Values.max }}
{{- $args = concat $args (list "--max" (int64 . | toString)) }}
{{- end }}
{{- if .Values.force }}
{{- $args = append $args "--force" }}
{{- end }}
{{- if .Values.dryRun }}
{{- $args = append $args "--dry-run" }}
{{- end }}
{{- end }}
{{- toYaml $args }}
{{- end }}
