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

{{/* Just the verbs and kinds the operator uses where pipelines may be. */}}
{{- define "pinpipe.rules" -}}
- apiGroups: [pinpipe.dev]
  resources: [pinterestpipelines]
  # Patched is the finalizer of those that take their topics along when they are deleted.
  verbs: [get, list, watch, patch]
- apiGroups: [pinpipe.dev]
  resources: [pinterestpipelines/status]
  verbs: [patch]
# Of Secrets just those a pipeline names are got; none is listed or watched.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Why a component isn't ready, and what a batch run said at its end.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Which configurations are still referred to, and which batch run ended last.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
# One is created where an annotation asks for a run.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, create]
# What a pipeline's status can't keep is told as its events.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# A pipeline's children. Server-side apply of an object that isn't there yet needs create and patch.
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# The Lease of batch runs. The operator never updates one: it must hold what it grants to the batch workers.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, create, patch, delete, update]
{{- end }}

{{/* The operator's account, as a binding names it. */}}
{{- define "pinpipe.subjects" -}}
- kind: ServiceAccount
  name: {{ include "pinpipe.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
