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

{{/* An address may be a URL, or a host with or without a port. */}}
{{- define "netexporter.loki" -}}
{{- $address := .remoteLokiAddress | default "grafana-loki:3100" -}}
{{- if not (contains "://" $address) -}}
{{- $address = printf "http://%s" (regexMatch ":[0-9]+$" $address | ternary $address (printf "%s:3100" $address)) -}}
{{- end -}}
{{ regexMatch "^https?://[^/]+/?$" $address | ternary (printf "%s/loki/api/v1/push" (trimSuffix "/" $address)) $address }}
{{- end -}}
