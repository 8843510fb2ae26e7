// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// testLoki starts Loki late: it gets what has happened before, of pods of both nodes.
func (s *suite) testLoki(t *testing.T) {
	dir := t.TempDir()
	serve(t, "loki", "-config.file="+filepath.Join(os.Getenv("CLUSTER_DEPLOY"), "../loki/loki.yaml"), "-common.path-prefix="+dir,
		"-common.storage.filesystem.chunk-directory="+dir+"/chunks", "-common.storage.filesystem.rules-directory="+dir+"/rules",
		"-server.http-listen-address="+lokiHost)
	for pod, node := range map[string]string{"plain": "n1", "two": "n2"} {
		query := url.Values{"query": {fmt.Sprintf(`{node=%q, namespace=%q, type=%q} |= " pod=%s "`, node, workNamespace, resetSent, pod)}}
		wait(t, "the events of "+pod+" in Loki", func() bool {
			resp, err := http.Get("http://" + lokiHost + ":3100/loki/api/v1/query_range?" + query.Encode())
			if err != nil {
				return false // it is not up yet
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			return resp.StatusCode == http.StatusOK && bytes.Contains(body, []byte("type="+resetSent+" pod="+pod+" "))
		})
	}
}
