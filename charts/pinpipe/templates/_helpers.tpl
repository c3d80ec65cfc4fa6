{{/* The name of the release's objects. 52 characters leave room for suffixes. */}}
{{- define "pinpipe.name" -}}
{{- $part := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $part .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $part | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "pinpipe.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "pinpipe.name" .) -}}
{{- end }}

{{- define "pinpipe.tag" -}}
{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- end }}

{{/* The operator's image. */}}
{{- define "pinpipe.image" -}}
{{- $repository := printf "%s/operator" .Values.image.registry -}}
{{- .Values.image.repositories.operator | default $repository -}}
:{{- include "pinpipe.tag" . -}}
{{- with .Values.image.digests.operator -}}
@{{- . -}}
{{- end -}}
{{- end }}

{{/* The workers' digests as the operator's flag takes them: ingest=sha256:…,stream=sha256:… */}}
{{- define "pinpipe.digests" -}}
{{- $pairs := list -}}
{{- range $worker := list "ingest" "stream" "batch" "emulator" -}}
{{- with index $.Values.image.digests $worker -}}
{{- $pairs = append $pairs (printf "%s=%s" $worker .) -}}
{{- end -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* The workers' repositories as the operator's flag takes them: ingest=…,stream=… */}}
{{- define "pinpipe.repositories" -}}
{{- $pairs := list -}}
{{- range $worker := list "ingest" "stream" "batch" "emulator" -}}
{{- with index $.Values.image.repositories $worker -}}
{{- $pairs = append $pairs (printf "%s=%s" $worker .) -}}
{{- end -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end }}

{{- define "pinpipe.selector" -}}
app.kubernetes.io/name: pinpipe-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object. */}}
{{- define "pinpipe.labels" -}}
{{- $labels := include "pinpipe.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/version" (include "pinpipe.tag" . | trunc 63) -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "pinpipe" -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $chart := printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 -}}
{{- $_ := set $labels "helm.sh/chart" $chart -}}
{{- merge $labels (.Values.commonLabels | default dict) | toYaml -}}
{{- end }}

{{/* Labels of the pods. No versions: a new chart with the same image must not roll the pods. */}}
{{- define "pinpipe.podLabels" -}}
{{- $labels := include "pinpipe.selector" . | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/part-of" "pinpipe" -}}
{{- $extra := .Values.operator.podLabels | default dict -}}
{{- merge $labels $extra (.Values.commonLabels | default dict) | toYaml -}}
{{- end }}

{{/* What `podSecurity` leaves to the platform is the ids alone. */}}
{{- define "pinpipe.podSecurityContext" -}}
{{- $seccomp := dict "type" "RuntimeDefault" -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" $seccomp -}}
{{- if eq .Values.operator.podSecurity "Fixed" -}}
{{- $context = merge $context (dict "runAsUser" 65532 "runAsGroup" 65532) -}}
{{- end -}}
{{- mergeOverwrite $context (.Values.operator.podSecurityContext | default dict) | toYaml -}}
{{- end }}

{{- define "pinpipe.securityContext" -}}
{{- $context := dict
  "allowPrivilegeEscalation" false
  "readOnlyRootFilesystem" true
  "capabilities" (dict "drop" (list "ALL")) -}}
{{- mergeOverwrite $context (.Values.operator.securityContext | default dict) | toYaml -}}
{{- end }}

{{- define "pinpipe.topologySpread" -}}
{{- $selector := dict "matchLabels" (include "pinpipe.selector" . | fromYaml) -}}
{{- $own := dict "labelSelector" $selector "matchLabelKeys" (list "pod-template-hash") -}}
{{- $spread := .Values.operator.topologySpreadConstraints -}}
{{- if not $spread -}}
{{- $spread = list (dict
  "maxSkew" 1
  "topologyKey" "kubernetes.io/hostname"
  "whenUnsatisfiable" "ScheduleAnyway") -}}
{{- end -}}
{{- $all := list -}}
{{- range $spread -}}
{{- $all = append $all (hasKey . "labelSelector" | ternary . (merge (deepCopy .) $own)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{/* Exactly the verbs and kinds the operator uses in namespaces with pipelines. */}}
{{- define "pinpipe.rules" -}}
- apiGroups: [pinpipe.dev]
  resources: [pinterestpipelines]
  # `patch` sets and removes the finalizer of pipelines with deletionPolicy: Delete.
  verbs: [get, list, watch, patch]
- apiGroups: [pinpipe.dev]
  resources: [pinterestpipelines/status, pinterestruns/status]
  verbs: [patch]
# `create` records a Job of the schedule as a run, `delete` removes such a record when it is old, and
# `patch` makes the pipeline the owner of its runs.
- apiGroups: [pinpipe.dev]
  resources: [pinterestruns]
  verbs: [get, list, watch, create, patch, delete]
# The operator reads the Secrets that pipelines name. It neither lists nor watches Secrets.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get]
# Why a component isn't ready, and how a batch run ended.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
# Which ConfigMaps are still in use, and which batch run ended last.
- apiGroups: [apps]
  resources: [replicasets]
  verbs: [list]
# `create` starts a run. `delete` replaces one that could not start before the pipeline was corrected.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
# A pipeline's children. Server-side apply needs `create` and `patch`.
- apiGroups: [""]
  resources: [configmaps, services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
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
# The Lease of batch runs. The operator never updates it, but may grant the batch worker only
# what it may do itself.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get, list, watch, create, patch, delete, update]
{{- end }}

{{/* The operator's account as the subject of a binding. */}}
{{- define "pinpipe.subjects" -}}
- kind: ServiceAccount
  name: {{ include "pinpipe.serviceAccount" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
