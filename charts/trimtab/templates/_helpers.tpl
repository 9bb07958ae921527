{{/* The release's name where it says what this is, else release and chart: `trimtab`, or `prod-trimtab`. */}}
{{- define "trimtab.fullname" -}}
{{- $name := contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) -}}
{{- $name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "trimtab.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* The pod of `helm test`, which the Service must not take for an operator. */}}
{{- define "trimtab.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: test
{{- end }}

{{- define "trimtab.labels" -}}
{{ include "trimtab.selectorLabels" . }}
{{ include "trimtab.commonLabels" . }}
{{- end }}

{{- define "trimtab.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "trimtab.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "trimtab.fullname" .) -}}
{{- end }}

{{- define "trimtab.alertsSecret" -}}
{{- .Values.alerts.existingSecret | default (printf "%s-alerts" (include "trimtab.fullname" .)) -}}
{{- end }}

{{/* All that the operator does. It reads no Secrets: pods mount them. */}}
{{- define "trimtab.rules" -}}
- apiGroups: [trimtab.dev]
  resources: [optimizationjobs, modelmonitors, optimizationruntimes]
  verbs: [get, list, watch]
- apiGroups: [trimtab.dev]
  resources: [optimizationjobs/status, modelmonitors/status]
  verbs: [patch]
# One with ttlSecondsAfterFinished is deleted.
- apiGroups: [trimtab.dev]
  resources: [optimizationjobs]
  verbs: [delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, delete, deletecollection]
# For what a pod left as its termination message, and why one does not start.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
{{- if dig "readLogs" true .Values.settings }}
# For how far a pod is that runs for long: the end of its log, once a minute.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
{{- end }}
{{- if dig "distributed" true (.Values.rbac | default dict) }}
# A headless one by which the pods of a trial that trains on several find each other; it goes with its job.
- apiGroups: [""]
  resources: [services]
  verbs: [create, get]
{{- end }}
# For why a Job gets no pod: only its events say so.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, list]
{{- if dig "monitors" true (.Values.rbac | default dict) }}
# The Prometheus rules of monitors, written with server-side apply.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, patch]
# An alert leads to one.
- apiGroups: [trimtab.dev]
  resources: [optimizationjobs]
  verbs: [create]
{{- end }}
{{- end }}

{{/* What the operator's pod and that of `helm test` have in common. */}}
{{- define "trimtab.pod" -}}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- range $field := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- with get $.Values $field }}
{{ $field }}: {{- kindIs "string" . | ternary (printf " %v" .) (toYaml . | nindent 2) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trimtab.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* The settings as environment variables, as `trimtab.settings` reads them. */}}
{{- define "trimtab.settings" -}}
- name: TRIMTAB_HTTP_PORT
  value: "8080"
{{- if .Values.leaderElection }}
- name: TRIMTAB_LEASE
  value: {{ printf "%s/%s" .Release.Namespace (include "trimtab.fullname" .) }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ printf "TRIMTAB_%s" ($name | snakecase | upper) }}
  value: {{ kindIs "slice" $value | ternary ($value | join ",") (toString $value) | quote }}
{{- end }}
{{- end }}
