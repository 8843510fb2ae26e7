// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
)

const (
	// backEnd is where the tests take the events in, on node 1.
	backEnd = "10.99.0.1:4318"
	// lokiHost is where testLoki has Loki, on node 1, at its usual port.
	lokiHost = "10.99.0.1"

	resetSent     = "TCPRESET_NOSOCK"
	resetReceived = "TCP_RCV_RST_SYN"
)

// record is what the agents say of an event.
type record struct {
	kind                        string
	pod, namespace, node, netns string
	uid, ip                     string // the address is known to the API server alone
	sourcePort, destinationPort int64
	sourcePod, destinationPod   string
	time                        time.Time
	body                        string
}

func (r record) String() string {
	return fmt.Sprintf("%s %s/%s node=%s netns=%s uid=%s at %s: %s", r.kind, r.namespace, r.pod, r.node, r.netns, r.uid,
		r.time.Format(time.StampMilli), r.body)
}

// records are the events that the agents have sent, in the order of their arrival.
type records struct {
	mu  sync.Mutex
	all []record
}

// receive takes events in, as an OTLP back end, until the test ends.
func receive(t *testing.T) *records {
	t.Helper()
	r := &records{}
	listener, err := net.Listen("tcp", backEnd)
	require.NoError(t, err)
	server := http.Server{Handler: r}
	go server.Serve(listener) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { server.Close() })
	return r
}

func (r *records) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(req.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unzipped
	}
	data, err := io.ReadAll(body)
	request := plogotlp.NewExportRequest()
	if err == nil {
		err = request.UnmarshalProto(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.add(request.Logs())
	answer, _ := plogotlp.NewExportResponse().MarshalProto()
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Write(answer) //nolint:errcheck // the agent would send again
}

func (r *records) add(logs plog.Logs) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rl := range logs.ResourceLogs().All() {
		res := rl.Resource().Attributes()
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				attrs := rec.Attributes()
				r.all = append(r.all, record{
					kind: text(attrs, "event.name"),
					pod:  text(res, "pod"), namespace: text(res, "namespace"), node: text(res, "node"), netns: text(res, "netns"),
					uid: text(res, "k8s.pod.uid"), ip: text(res, "k8s.pod.ip"),
					sourcePort: number(attrs, "source.port"), destinationPort: number(attrs, "destination.port"),
					sourcePod: text(attrs, "source.k8s.pod.name"), destinationPod: text(attrs, "destination.k8s.pod.name"),
					time: rec.Timestamp().AsTime(),
					body: rec.Body().AsString(),
				})
			}
		}
	}
}

func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

func number(m pcommon.Map, key string) int64 {
	v, ok := m.Get(key)
	if !ok {
		return 0
	}
	return v.Int()
}

// of returns the records of connections to a port. Both agents see the one kernel that
// the nodes of these tests share, so it takes only what the agent of this node said.
func (r *records) of(node, kind string, port int) []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []record
	for _, rec := range r.all {
		if rec.node == node && rec.kind == kind && rec.destinationPort == int64(port) {
			found = append(found, rec)
		}
	}
	return found
}

// wait returns the records of a kind with a port once there are some that fulfil the condition.
func (r *records) wait(t testing.TB, node, kind string, port int, condition func([]record) bool) []record {
	t.Helper()
	var found []record
	wait(t, fmt.Sprintf("%s of port %d on %s", kind, port, node), func() bool {
		found = r.of(node, kind, port)
		return len(found) > 0 && condition(found)
	})
	return found
}

func isThere([]record) bool { return true }

// bothVersions tells whether both IPv4 and IPv6 are among the records.
func bothVersions(found []record) bool {
	is6 := func(r record) bool { return slices.ContainsFunc([]byte(r.body), func(b byte) bool { return b == ':' }) }
	return slices.ContainsFunc(found, is6) && slices.ContainsFunc(found, func(r record) bool { return !is6(r) })
}

// assertOf asserts that records are of a pod, from the first to the last.
func assertOf(t testing.TB, found []record, node, namespace, pod, netns string) {
	t.Helper()
	for _, r := range found {
		assert.Equal(t, []string{node, namespace, pod, netns}, []string{r.node, r.namespace, r.pod, r.netns}, r)
		assert.Contains(t, r.body, fmt.Sprintf(" pod=%s namespace=%s ", pod, namespace))
	}
}
