{{- define "relay.selector" -}}
app.kubernetes.io/name: culvert-relay
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "relay.metadata" -}}
name: {{ .Release.Name }}
labels:
  {{- include "relay.labels" . | nindent 2 }}
{{- end }}

{{- /* How many relays there are at least while nothing is amiss. */}}
{{- define "relay.fewest" -}}
{{ if .Values.autoscaling.enabled }}{{ .Values.autoscaling.minReplicas }}{{ else }}{{ .Values.replicas }}{{ end }}
{{- end }}
