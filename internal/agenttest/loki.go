// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agenttest

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// Loki is a Loki server, configured as deploy/loki/loki.yaml says.
type Loki struct {
	*Process
	URL string
}

// StartLoki runs bin/loki, which `make bin/loki` makes. It skips the test if there is none.
func StartLoki(t testing.TB) *Loki {
	t.Helper()
	const program, config = "../../bin/loki", "../../deploy/loki/loki.yaml"
	for _, file := range []string{program, config} {
		if _, err := os.Stat(file); err != nil {
			t.Skipf("NOT TESTED: Loki, for want of %s. `make bin/loki` builds it, once, in some minutes.", file)
		}
	}
	ports, dir := FreePorts(t, 2), t.TempDir()
	l := &Loki{URL: "http://" + Loopback(ports[0])}
	l.Process = Run(t, nil, program, "-config.file="+config, "-common.path-prefix="+dir,
		"-common.storage.filesystem.chunk-directory="+dir+"/chunks", "-common.storage.filesystem.rules-directory="+dir+"/rules",
		fmt.Sprint("-server.http-listen-port=", ports[0]), fmt.Sprint("-server.grpc-listen-port=", ports[1]))
	Wait(t, "Loki to be ready", func() bool {
		if l.Ended() {
			t.Fatalf("Loki has ended: %v", l.Cmd.ProcessState)
		}
		_, err := Get(l.URL + "/ready")
		return err == nil
	})
	return l
}

// Query returns the lines of the last hour that a LogQL query finds, 5,000 at most.
func (l *Loki) Query(t testing.TB, logQL string) (lines []string) {
	t.Helper()
	text, err := Get(l.URL + "/loki/api/v1/query_range?" + url.Values{"query": {logQL}, "since": {"1h"}, "limit": {"5000"}}.Encode())
	require.NoError(t, err, "%s: %s", logQL, text)
	var answer struct {
		Data struct {
			Result []struct{ Values [][]any }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer), text)
	for _, stream := range answer.Data.Result {
		for _, value := range stream.Values { // the time, the line, and what is kept beside it
			lines = append(lines, value[1].(string))
		}
	}
	return lines
}
