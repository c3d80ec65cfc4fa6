{{/* Fails where parameters are missing, or are another command's. */}}
{{- define "pinpipe-job.check" -}}
{{- $parameters := dict
  "run" (list)
  "full" (list)
  "backfill" (list "from" "to")
  "import" (list "prefix" "events")
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
{{- fail "command=import needs prefix, events or both: the key prefixes, in the archive's bucket, of what is to be loaded (--set events.pin=events)" }}
{{- end }}
{{- if .Release.IsUpgrade }}
{{- fail (printf "a Job can't be changed once it runs: install another release, and uninstall %s" .Release.Name) }}
{{- end }}
{{- end }}

{{/* The variables that tell a batch run what it is, as YAML. */}}
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
{{- range $value, $variable := dict "from" "PINPIPE_FROM" "to" "PINPIPE_TO" "prefix" "PINPIPE_IMPORT" }}
{{- with index $.Values $value }}
{{- $env = append $env (dict "name" $variable "value" (toString .)) }}
{{- end }}
{{- end }}
{{- toYaml $env }}
{{- end }}

{{/* The worker's arguments, as YAML; none: a batch run. */}}
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
