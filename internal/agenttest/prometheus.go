// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agenttest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Prometheus is a Prometheus server, Debian's.
type Prometheus struct {
	*Process
	URL string
}

// StartPrometheus runs Prometheus with a configuration. It skips the test if there is none.
func StartPrometheus(t testing.TB, config string) *Prometheus {
	t.Helper()
	port := FreePorts(t, 1)[0]
	p := &Prometheus{URL: "http://" + Loopback(port)}
	p.Process = Run(t, nil, SystemProgram(t, "prometheus"), "--config.file="+WriteFile(t, "prometheus.yml", config),
		"--storage.tsdb.path="+t.TempDir(), "--web.listen-address="+Loopback(port), "--log.level=warn")
	Wait(t, "Prometheus to be ready", func() bool {
		if p.Ended() {
			t.Fatalf("prometheus has ended: %v", p.Cmd.ProcessState)
		}
		_, err := Get(p.URL + "/-/ready")
		return err == nil
	})
	return p
}

// Series is an element of the answer to a query.
type Series struct {
	Metric map[string]string
	Points []Point // one for an instant query
}

// Point is a value at a time, in seconds.
type Point struct{ Time, Value float64 }

// Value is the last one.
func (s Series) Value() float64 { return s.Points[len(s.Points)-1].Value }

// Query returns the answer to an instant query, which may be empty.
func (p *Prometheus) Query(t testing.TB, expr string) []Series {
	t.Helper()
	return p.query(t, "query", url.Values{"query": {expr}})
}

// QueryRange returns the answer to a query over time.
func (p *Prometheus) QueryRange(t testing.TB, expr string, from, to time.Time, step time.Duration) []Series {
	t.Helper()
	return p.query(t, "query_range", url.Values{
		"query": {expr}, "start": {fmt.Sprint(from.Unix())}, "end": {fmt.Sprint(to.Unix())}, "step": {fmt.Sprint(step.Seconds())},
	})
}

func (p *Prometheus) query(t testing.TB, endpoint string, values url.Values) []Series {
	t.Helper()
	text, err := Get(p.URL + "/api/v1/" + endpoint + "?" + values.Encode())
	require.NoError(t, err, "%s: %s", values.Get("query"), text)
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  []any
				Values [][]any
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer), text)
	var series []Series
	for _, r := range answer.Data.Result {
		s := Series{Metric: r.Metric}
		if r.Value != nil {
			r.Values = append(r.Values, r.Value)
		}
		for _, v := range r.Values { // the time, and the value as text
			value, err := strconv.ParseFloat(v[1].(string), 64)
			require.NoError(t, err)
			s.Points = append(s.Points, Point{Time: v[0].(float64), Value: value})
		}
		series = append(series, s)
	}
	return series
}

// Alert is an alert that is pending or fires.
type Alert struct {
	State               string
	Labels, Annotations map[string]string
}

// Alerts returns those that are active now.
func (p *Prometheus) Alerts(t testing.TB) []Alert {
	t.Helper()
	text, err := Get(p.URL + "/api/v1/alerts")
	require.NoError(t, err)
	var answer struct{ Data struct{ Alerts []Alert } }
	require.NoError(t, json.Unmarshal([]byte(text), &answer), text)
	return answer.Data.Alerts
}
