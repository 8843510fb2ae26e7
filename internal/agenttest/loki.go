// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agenttest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Loki is a Loki server, configured as deploy/loki/loki.yaml says, that can be stopped and started again.
type Loki struct {
	*Process
	URL     string
	Storage string // the directory of its chunks

	program string
	args    []string
}

// mostLines is the most that a query returns.
const mostLines = 5000

// StartLoki runs bin/loki, which `make bin/loki` makes. It skips the test if there is none. flags go before
// what the file says.
func StartLoki(t testing.TB, flags ...string) *Loki {
	t.Helper()
	const config = "../../deploy/loki/loki.yaml"
	program, err := filepath.Abs("../../bin/loki")
	require.NoError(t, err)
	for _, file := range []string{program, config} {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("NOT TESTED: Loki, for want of %s. `make bin/loki` builds it, once, in some minutes.", file)
		}
	}
	ports, dir := FreePorts(t, 2), t.TempDir()
	l := &Loki{URL: "http://" + Loopback(ports[0]), Storage: dir + "/chunks", program: program}
	l.args = append([]string{
		"-config.file=" + config, "-common.path-prefix=" + dir, "-common.storage.filesystem.chunk-directory=" + l.Storage,
		"-common.storage.filesystem.rules-directory=" + dir + "/rules",
		fmt.Sprint("-server.http-listen-port=", ports[0]), fmt.Sprint("-server.grpc-listen-port=", ports[1]),
	}, flags...)
	l.Start(t)
	return l
}

// Start runs it again after Stop.
func (l *Loki) Start(t testing.TB) {
	t.Helper()
	l.Process = Run(t, nil, l.program, l.args...)
	Wait(t, "Loki to be ready", func() bool {
		if l.Ended() {
			t.Fatalf("Loki has ended: %v", l.Cmd.ProcessState)
		}
		_, err := Get(l.URL + "/ready")
		return err == nil
	})
}

// Stop ends it as an operator does.
func (l *Loki) Stop(t testing.TB) {
	t.Helper()
	l.Signal(t, syscall.SIGTERM)
	l.ExitCode(t)
}

// Query returns the lines of the last hour that a LogQL query finds, oldest first.
func (l *Loki) Query(t testing.TB, logQL string) []string {
	t.Helper()
	values := url.Values{
		"query": {logQL}, "limit": {strconv.Itoa(mostLines)}, "direction": {"forward"},
		"start": {strconv.FormatInt(time.Now().Add(-time.Hour).UnixNano(), 10)},
		"end":   {strconv.FormatInt(time.Now().Add(time.Minute).UnixNano(), 10)},
	}
	var text string
	var err error
	defer func() {
		if err != nil {
			t.Logf("%s: %v", logQL, err)
		}
	}()
	Wait(t, "Loki to answer", func() (answers bool) { // one that has just started may not
		text, err = Get(l.URL + "/loki/api/v1/query_range?" + values.Encode())
		return err == nil
	})
	var answer struct {
		Data struct {
			Result []struct{ Values [][]any }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer), text)
	type entry struct {
		at   int64 // Unix time in nanoseconds
		line string
	}
	var entries []entry
	for _, stream := range answer.Data.Result {
		for _, value := range stream.Values { // the time, the line, and what is kept beside it
			at, err := strconv.ParseInt(value[0].(string), 10, 64)
			require.NoError(t, err)
			entries = append(entries, entry{at, value[1].(string)})
		}
	}
	require.Less(t, len(entries), mostLines, "as many lines as a query returns: there may be more")
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.at, b.at) })
	lines := make([]string, 0, len(entries))
	for _, e := range entries {
		lines = append(lines, e.line)
	}
	return lines
}
