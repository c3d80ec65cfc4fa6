{{/* The name of everything in this release. */}}
{{- define "pinpipe.name" -}}
{{- if contains "pinpipe" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-pinpipe" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "pinpipe.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "pinpipe.name" .) -}}
{{- end }}

{{- define "pinpipe.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end }}

{{/* The workers' digests as the operator takes them: ingest=sha256:…,stream=sha256:… */}}
{{- define "pinpipe.digests" -}}
{{- $pairs := list -}}
{{- range $worker := list "ingest" "stream" "batch" "emulator" -}}
{{- with index $.Values.image.digests $worker -}}
{{- $pairs = append $pairs (printf "%s=%s" $worker .) -}}
{{- end -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{- define "pinpipe.selector" -}}
app.kubernetes.io/name: pinpipe-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "pinpipe.labels" -}}
{{ include "pinpipe.selector" . }}
app.kubernetes.io/version: {{ include "pinpipe.tag" . | trunc 63 | quote }}
app.kubernetes.io/part-of: pinpipe
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end }}
