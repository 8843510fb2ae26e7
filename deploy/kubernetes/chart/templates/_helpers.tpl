{{- define "netexporter.selector" -}}
app.kubernetes.io/name: netexporter
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "netexporter.labels" -}}
{{ include "netexporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion }}
{{- end -}}

{{/* Without the release's name where that says it already. */}}
{{- define "netexporter.name" -}}
{{ contains "netexporter" .Release.Name | ternary .Release.Name (printf "%s-netexporter" .Release.Name) | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/*
The documented lists of probes as settings of the receiver. A list that is not empty is the whole set of its kind. The
receiver has one set for both, so an event probe that no metric was asked of serves its metrics all the same, and a
metric probe that no event was asked of is told to make none.
*/}}
{{- define "netexporter.probes" -}}
{{- $defaultEvents := list "packetloss" "tcpreset" "tcptwrcv" -}}
{{- $metrics := ternary .metricProbes list .enableMetricServer -}}
{{- $events := ternary (.eventProbes | default $defaultEvents) list .enableEventServer -}}
{{- $default := and .enableMetricServer (not $metrics) -}}
{{- $listed := concat $metrics $events -}}
{{- if and $default .enableEventServer }}{{ $listed = concat $listed $defaultEvents }}{{ end -}}
default_probes: {{ $default }}
probes:
{{- range $listed | uniq | sortAlpha }}
  {{ eq . "virtcmdlat" | ternary "virtcmdlatency" . }}:
  {{- if and $.enableEventServer (not (has . $events)) }} {events: false}{{ end }}
{{- end }}
{{- end -}}

{{/*
The URL of Loki's push API. An address is a URL, or a host with or without a port; without one it is the Service
grafana-loki of this namespace.
*/}}
{{- define "netexporter.loki" -}}
{{- $address := .Values.config.remoteLokiAddress | default (printf "grafana-loki.%s.svc" .Release.Namespace) -}}
{{- if not (contains "://" $address) -}}
{{- $address = regexMatch ":[0-9]+$" $address | ternary $address (printf "%s:3100" $address) | printf "http://%s" -}}
{{- end -}}
{{ regexMatch "^https?://[^/]+/?$" $address | ternary (printf "%s/loki/api/v1/push" (trimSuffix "/" $address)) $address }}
{{- end -}}
