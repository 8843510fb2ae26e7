// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "fmt"

// dashboard is what one is about; its uid is `netexporter-` and the name.
type dashboard struct {
	name, title, description string
	// variables are the ones to choose from, besides the data sources.
	variables []variable
	// runbook is the section of docs/troubleshooting.md that panels lead to if they do not have one of their own.
	runbook string
	rows    []row
}

type row struct {
	title  string
	panels []panel
}

// panel has a number that does not change when others come and go: alerts link to it.
type panel struct {
	id          int
	title       string
	unit        string // Grafana's name of it; for logs empty
	description string
	queries     []query
	kind        kind
	runbook     string
}

type kind string

const (
	timeseries kind = "" // the default
	stat       kind = "stat"
	table      kind = "table"
	history    kind = "state-timeline"
	logs       kind = "logs"
)

type query struct{ expr, legend string }

type variable struct{ name, label, values string }

const (
	schemaVersion = 39 // of Grafana 10.4; newer ones migrate it by themselves
	documents     = "https://github.com/netexporter/netexporter/blob/main/docs/troubleshooting.md#"
	columns       = 24 // of Grafana's grid
)

type object = map[string]any

// model is the dashboard as Grafana's JSON model has it.
func (d dashboard) model(all []dashboard) object {
	var panels []any
	y, last := 0, 100 // rows have numbers, too
	for _, r := range d.rows {
		last++
		panels = append(panels, object{
			"id": last, "type": "row", "title": r.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"x": 0, "y": y, "w": columns, "h": 1},
		})
		y++
		x, height := 0, 0
		for _, p := range r.panels {
			w, h := p.size(len(r.panels))
			if x+w > columns {
				x, y, height = 0, y+height, 0
			}
			panels = append(panels, p.model(d, object{"x": x, "y": y, "w": w, "h": h}))
			x, height = x+w, max(height, h)
		}
		y += height
	}
	links := []any{}
	for _, other := range all {
		if other.name != d.name {
			links = append(links, link(other.title, "/d/"+other.uid(), other.description, true))
		}
	}
	variables := []any{
		object{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0, "refresh": 1},
		object{"name": "loki", "label": "Loki", "type": "datasource", "query": "loki", "hide": 0, "refresh": 1},
	}
	for _, v := range d.variables {
		variables = append(variables, object{
			"name": v.name, "label": v.label, "type": "query", "datasource": source("prometheus", "datasource"),
			"query":   object{"query": v.values, "refId": "variable"},
			"refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "hide": 0,
			"current": object{"text": "All", "value": "$__all"},
		})
	}
	return object{
		"uid": d.uid(), "title": "netexporter / " + d.title, "description": d.description, "tags": []any{"netexporter"},
		"schemaVersion": schemaVersion, "editable": true, "graphTooltip": 1, "timezone": "browser", "refresh": "30s",
		"time": object{"from": "now-1h", "to": "now"}, "templating": object{"list": variables}, "links": links, "panels": panels,
		"annotations": object{"list": []any{}},
	}
}

func (d dashboard) uid() string { return "netexporter-" + d.name }

// size is the width and height of a panel among so many in its row.
func (p panel) size(count int) (w, h int) {
	switch {
	case p.kind == logs:
		return columns, 10
	case p.kind == stat:
		return columns / max(4, min(count, 6)), 4
	case count >= 3:
		return columns / 3, 8
	}
	return columns / count, 8
}

func (p panel) model(d dashboard, position object) object {
	from := source("prometheus", "datasource")
	if p.kind == logs {
		from = source("loki", "loki")
	}
	var targets []any
	for i, q := range p.queries {
		target := object{"refId": string(rune('A' + i)), "datasource": from, "expr": q.expr}
		switch p.kind {
		case logs:
			target["queryType"] = "range"
		case table, stat:
			target["instant"], target["range"], target["format"], target["legendFormat"] = true, false, "table", q.legend
			if p.kind == stat {
				target["format"] = "time_series"
			}
		default:
			target["range"], target["legendFormat"] = true, q.legend
		}
		targets = append(targets, target)
	}
	runbook := d.runbook
	if p.runbook != "" {
		runbook = p.runbook
	}
	m := object{
		"id": p.id, "title": p.title, "description": p.description, "gridPos": position, "datasource": from, "targets": targets,
		"links":       []any{link("What to do", documents+runbook, "", false)},
		"fieldConfig": object{"defaults": object{"unit": p.unit, "min": 0, "custom": object{}}, "overrides": []any{}},
	}
	defaults := m["fieldConfig"].(object)["defaults"].(object)
	switch p.kind {
	case logs:
		m["type"] = "logs"
		m["options"] = object{
			"showTime": true, "wrapLogMessage": true, "sortOrder": "Descending", "enableLogDetails": true, "dedupStrategy": "none",
			"showLabels": false, "showLogContextToggle": false, "showCommonLabels": false, "prettifyLogMessage": false,
		}
		m["fieldConfig"] = object{"defaults": object{}, "overrides": []any{}}
	case stat:
		m["type"] = "stat"
		m["options"] = object{
			"reduceOptions": object{"calcs": []any{"lastNotNull"}, "fields": "", "values": false}, "colorMode": "value",
			"graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": "auto", "wideLayout": true,
			"showPercentChange": false, "percentChangeColorMode": "standard",
		}
	case table:
		m["type"] = "table"
		m["options"] = object{"showHeader": true, "cellHeight": "sm", "frameIndex": 0}
		m["transformations"] = []any{object{"id": "organize", "options": object{"excludeByName": object{"Time": true}}}}
	case history:
		m["type"] = "state-timeline"
		m["options"] = object{
			"showValue": "never", "mergeValues": true, "rowHeight": 0.9, "alignValue": "left",
			"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []any{}},
			"tooltip": object{"mode": "single", "sort": "none"},
		}
		defaults["mappings"] = []any{object{"type": "value", "options": object{
			"0": object{"text": "no", "color": "red", "index": 0}, "1": object{"text": "yes", "color": "green", "index": 1},
		}}}
	default:
		m["type"] = "timeseries"
		m["options"] = object{
			"legend":  object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []any{"lastNotNull", "max"}},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
		defaults["custom"] = object{
			"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": 10, "showPoints": "never",
			"spanNulls": false,
		}
	}
	return m
}

// link leads to another dashboard, with what has been chosen, or to a document, in a window of its own.
func link(title, url, tooltip string, dashboard bool) object {
	return object{
		"title": title, "type": "link", "url": url, "tooltip": tooltip, "icon": map[bool]string{true: "dashboard", false: "doc"}[dashboard],
		"keepTime": dashboard, "includeVars": dashboard, "targetBlank": !dashboard, "tags": []any{}, "asDropdown": false,
	}
}

func source(kind, variable string) object {
	return object{"type": kind, "uid": fmt.Sprintf("${%s}", variable)}
}
