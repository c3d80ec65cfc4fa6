{{/* Labels of a server's objects. Takes a list: the root context and the server's name. */}}
{{- define "devstack.labels" -}}
{{- $root := index . 0 -}}
{{ include "devstack.selector" . }}
app.kubernetes.io/part-of: devstack
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- define "devstack.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- end }}

{{/* The image of a server. */}}
{{- define "devstack.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- index $root.Values.images $name | default (printf "%s/devstack-%s:%s" $root.Values.images.registry $name $root.Chart.AppVersion) -}}
{{- end }}

{{/*
A server: its Services and a StatefulSet of one pod. Takes a dict:
  root, name, port, dataPath
  probe         the command of the readiness probe
  externalPort  optional: the port for clients outside the cluster, if it is another one
  config, configPath, checksum  optional: a volume source, where it is mounted, and a hash of what the
                server reads only at start
  env           optional: a list of environment variables
  tls           optional: true if the server reads the certificate of tls.secretName, below /etc/tls
  tlsPort       optional: its port for TLS, if it is another one
  metricsPort   optional: the port of its metrics
  exporter      optional: a dict with the command, port and env of a program of the image that serves
                its metrics beside it
*/}}
{{- define "devstack.server" -}}
{{- $values := index .root.Values .name -}}
{{- $id := list .root .name -}}
{{- $tls := and .tls .root.Values.tls.secretName -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels: {{- include "devstack.labels" $id | nindent 4 }}
spec:
  selector: {{- include "devstack.selector" $id | nindent 4 }}
  ports:
    - {name: {{ .name }}, port: {{ .port }}, targetPort: server}
    {{- if and $tls .tlsPort }}
    - {name: {{ .name }}-tls, port: {{ .tlsPort }}, targetPort: tls}
    {{- end }}
{{- if .root.Values.nodePorts.enabled }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}-external
  labels: {{- include "devstack.labels" $id | nindent 4 }}
spec:
  type: NodePort
  selector: {{- include "devstack.selector" $id | nindent 4 }}
  ports:
    - {name: {{ .name }}, port: {{ .port }}, targetPort: {{ ternary "external" "server" (hasKey . "externalPort") }}, nodePort: {{ index .root.Values.nodePorts .name }}}
{{- end }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  labels: {{- include "devstack.labels" $id | nindent 4 }}
spec:
  serviceName: {{ .name }}
  replicas: 1
  selector:
    matchLabels: {{- include "devstack.selector" $id | nindent 6 }}
  template:
    metadata:
      labels: {{- include "devstack.labels" $id | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: {{ .name }}
        {{- with .checksum }}
        checksum/config: {{ . }}
        {{- end }}
    spec:
      enableServiceLinks: false
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 30
      {{- with .root.Values.nodeSelector }}
      nodeSelector: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .root.Values.tolerations }}
      tolerations: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      {{- if .root.Values.volumeOwnership }}
      initContainers:
        - name: own-volume
          image: {{ include "devstack.image" $id }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          command: [chown, "10001:10001", {{ .dataPath }}]
          securityContext:
            runAsNonRoot: false
            runAsUser: 0
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL], add: [CHOWN]}
          volumeMounts:
            - {name: data, mountPath: {{ .dataPath }}}
      {{- end }}
      containers:
        - name: {{ .name }}
          image: {{ include "devstack.image" $id }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          {{- with .env }}
          env: {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - {name: server, containerPort: {{ .port }}}
            {{- if .externalPort }}
            - {name: external, containerPort: {{ .externalPort }}}
            {{- end }}
            {{- if and $tls .tlsPort }}
            - {name: tls, containerPort: {{ .tlsPort }}}
            {{- end }}
            {{- with .metricsPort }}
            - {name: metrics, containerPort: {{ . }}}
            {{- end }}
          readinessProbe:
            exec:
              command: {{ toJson .probe }}
            periodSeconds: 2
            timeoutSeconds: 5
            failureThreshold: 5
          resources: {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            readOnlyRootFilesystem: true
          volumeMounts:
            - {name: data, mountPath: {{ .dataPath }}}
            - {name: tmp, mountPath: /tmp}
            {{- if .config }}
            - {name: config, mountPath: {{ .configPath }}, readOnly: true}
            {{- end }}
            {{- if $tls }}
            - {name: tls, mountPath: /etc/tls, readOnly: true}
            {{- end }}
        {{- with .exporter }}
        - name: exporter
          image: {{ include "devstack.image" $id }}
          imagePullPolicy: {{ $.root.Values.images.pullPolicy }}
          command: {{ toJson .command }}
          env: {{- toYaml .env | nindent 12 }}
          ports:
            - {name: metrics, containerPort: {{ .port }}}
          resources:
            requests: {cpu: 5m, memory: 16Mi}
            limits: {memory: 64Mi}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {drop: [ALL]}
            readOnlyRootFilesystem: true
        {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- if .config }}
        - name: config
          {{- toYaml .config | nindent 10 }}
        {{- end }}
        {{- if $tls }}
        - name: tls
          # PostgreSQL refuses a key that everybody may read.
          secret: {secretName: {{ $tls }}, defaultMode: 0440}
        {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .root.Values.storageClassName }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ $values.storage }}
{{- end }}
