// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
)

// drawn are the panels in the picture of README, by their dashboard and number.
var drawn = [...]struct {
	uid string
	id  int
}{
	{"netexporter-dns", 1},
	{"netexporter-ingress", 2},
	{"netexporter-ingress", 7},
	{"netexporter-resets", 4},
	{"netexporter-drops", 2},
	{"netexporter-jitter", 8},
}

const (
	panelWidth, panelHeight, gap = 400, 250, 10
	plotLeft, plotTop            = 52, 32 // within the panel
	plotWidth, plotHeight        = 336, 120
	legendLines                  = 4
)

// plot is what the template draws of a panel.
type plot struct {
	X, Y  int
	Title string
	Grid  []struct {
		Y     float64
		Label string
	}
	Times []struct {
		X     float64
		Label string
	}
	Lines []plotLine
}

type plotLine struct {
	Color, Points, Legend, Max string
	highest                    float64
}

// writePictures draws some panels as Grafana shows them, from the answers to the same queries.
func writePictures(t *testing.T, start time.Time, all []actors, server *agenttest.Prometheus) {
	t.Helper()
	var names []string
	for _, a := range all {
		names = append(names, a.A.Name, a.short+"-client", a.B.Name, a.short+"-server")
	}
	rename, boards, end := strings.NewReplacer(names...), dashboards(t), time.Now()
	var plots []plot
	for i, which := range drawn {
		p := boards[which.uid].panel(which.id)
		require.NotNil(t, p)
		plots = append(plots, draw(t, server, p, start, end, rename))
		plots[i].X, plots[i].Y = i%3*(panelWidth+gap), i/3*(panelHeight+gap)
	}
	var svg bytes.Buffer
	require.NoError(t, picture.Execute(&svg, plots))
	require.NoError(t, os.MkdirAll("../../docs/pictures", 0o755))
	require.NoError(t, os.WriteFile("../../docs/pictures/troubles.svg", svg.Bytes(), 0o644))
}

func draw(t *testing.T, server *agenttest.Prometheus, p *panel, start, end time.Time, rename *strings.Replacer) plot {
	t.Helper()
	drawing := plot{Title: p.Title}
	var series []agenttest.Series
	var legends []string
	top := 0.0
	for _, q := range p.Targets {
		for _, s := range server.QueryRange(t, fill(q.Expr, map[string][]string{"var-namespace": {"netns"}}), start, end, interval) {
			legend := regexp.MustCompile(`\{\{(\w+)\}\}`).ReplaceAllStringFunc(q.LegendFormat, func(label string) string {
				if label == "{{node}}" {
					return "worker-1"
				}
				return rename.Replace(s.Metric[label[2:len(label)-2]])
			})
			highest := slices.MaxFunc(s.Points, func(a, b agenttest.Point) int { return int(1000 * (a.Value - b.Value)) }).Value
			if highest > 0 && !strings.Contains(legend, "nxt") { // somebody else's namespaces
				series, legends, top = append(series, s), append(legends, legend), max(top, highest)
			}
		}
	}
	require.NotEmpty(t, series, p.Title)
	colors := []string{"#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#fade2a"}
	x := func(at float64) float64 {
		return plotLeft + plotWidth*(at-float64(start.Unix()))/end.Sub(start).Seconds()
	}
	for i, s := range series {
		line := plotLine{Color: colors[i%len(colors)], Legend: legends[i]}
		for _, point := range s.Points {
			line.Points += fmt.Sprintf("%.1f,%.1f ", x(point.Time), plotTop+plotHeight*(1-point.Value/top))
			line.highest = max(line.highest, point.Value)
		}
		line.Max = amount(line.highest, p.FieldConfig.Defaults.Unit)
		drawing.Lines = append(drawing.Lines, line)
	}
	slices.SortStableFunc(drawing.Lines, func(a, b plotLine) int { return int(1000 * (b.highest - a.highest)) })
	for part := range 3 {
		share := float64(part) / 2
		drawing.Grid = append(drawing.Grid, struct {
			Y     float64
			Label string
		}{plotTop + plotHeight*(1-share), amount(top*share, p.FieldConfig.Defaults.Unit)})
	}
	for at := start.Truncate(time.Minute).Add(time.Minute); at.Before(end); at = at.Add(time.Minute) {
		drawing.Times = append(drawing.Times, struct {
			X     float64
			Label string
		}{x(float64(at.Unix())), at.UTC().Format("15:04")})
	}
	return drawing
}

// amount is a value as Grafana writes it in a unit.
func amount(value float64, unit string) string {
	switch unit {
	case "pps":
		return fmt.Sprintf("%.3g p/s", value)
	case "cps":
		return fmt.Sprintf("%.3g c/s", value)
	case "bytes":
		return fmt.Sprintf("%.3g MiB", value/(1<<20))
	}
	return fmt.Sprintf("%.3g", value)
}

var picture = template.Must(template.New("picture").Funcs(template.FuncMap{
	"first": func(lines []plotLine) []plotLine { return lines[:min(len(lines), legendLines)] },
	"line":  func(i int) int { return plotTop + plotHeight + 40 + 14*i },
}).Parse(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1220 510" font-family="Inter, Helvetica, Arial, sans-serif" font-size="10">
<rect width="1220" height="510" fill="#111217"/>
{{range .}}<g transform="translate({{.X}} {{.Y}})">
<rect width="400" height="250" rx="2" fill="#181b1f" stroke="#2c3235"/>
<text x="10" y="20" fill="#ccccdc" font-size="13" font-weight="600">{{html .Title}}</text>
{{range .Grid}}<line x1="52" x2="388" y1="{{printf "%.1f" .Y}}" y2="{{printf "%.1f" .Y}}" stroke="#2c3235"/><text x="47" y="{{printf "%.1f" .Y}}" dy="3" text-anchor="end" fill="#9fa7b3">{{.Label}}</text>
{{end}}{{range .Times}}<text x="{{printf "%.1f" .X}}" y="166" text-anchor="middle" fill="#9fa7b3">{{.Label}}</text>
{{end}}{{range .Lines}}<polyline points="{{.Points}}" fill="none" stroke="{{.Color}}" stroke-width="1.3"/>
{{end}}{{range $i, $l := first .Lines}}<rect x="12" y="{{line $i}}" width="12" height="3" fill="{{.Color}}"/><text x="30" y="{{line $i}}" dy="5" fill="#ccccdc">{{html .Legend}}</text><text x="388" y="{{line $i}}" dy="5" text-anchor="end" fill="#9fa7b3">max {{.Max}}</text>
{{end}}</g>
{{end}}</svg>
`))
