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
# A monitor starts OptimizationJobs, and one with ttlSecondsAfterFinished is deleted.
- apiGroups: [trimtab.dev]
  resources: [optimizationjobs]
  verbs: [create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, delete, deletecollection]
# For what a pod left as its termination message, and why one does not start.
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# The Prometheus rules of monitors, written with server-side apply.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create, patch]
{{- end }}
