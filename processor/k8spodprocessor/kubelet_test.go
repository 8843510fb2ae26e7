// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod that the API server does not tell of, because it is away, is asked for at the kubelet; one that is known is not.
func TestKubelet(t *testing.T) {
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/pods" || r.Header.Get("Authorization") != "Bearer "+agentUser {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		list := corev1.PodList{
			TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"},
			Items:    []corev1.Pod{*apiPod(staticUID, "kube-proxy-worker-1")},
		}
		w.Header().Set("Content-Type", "application/json")
		assert.NoError(t, json.NewEncoder(w).Encode(list))
	}))
	defer server.Close()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "token"), []byte(agentUser), 0o600))
	writeKubeconfig(t, filepath.Join(dir, "kubeconfig"), "https://127.0.0.1:1", filepath.Join(dir, "token"))
	t.Setenv("KUBECONFIG", filepath.Join(dir, "kubeconfig"))
	cfg := config(Config{RootPath: dir, Node: "worker-1"})
	cfg.AuthType, cfg.Kubelet = authKubeConfig, KubeletConfig{Endpoint: server.URL, InsecureSkipVerify: true}
	p, err := newPods(componenttest.NewNopTelemetrySettings(), cfg, func() {})
	require.NoError(t, err)
	_, err = p.start(t.Context())
	require.NoError(t, err)
	defer p.shutdown()

	assert.Zero(t, asked.Load(), "asked for nothing")
	require.Eventually(t, func() bool {
		found, source := p.lookup(staticUID, "")
		return named(found) == "kube-proxy-worker-1" && source == sourceKubelet
	}, time.Minute, time.Millisecond)
	select { // what was missed while it was asked
	case <-p.kubelet.missed:
	default:
	}
	l := started(t, p, Config{})
	res := pcommon.NewMap()
	require.NoError(t, res.FromRaw(map[string]any{keyInode: 1, keyPodUID: staticUID}))
	l.label(res, true, false, newTally())
	assert.Equal(t, "kube-proxy-worker-1", text(res, labelPod))
	assert.Equal(t, "kube-proxy-worker-1", named(p.at(addrs(podAddress)[0], time.Now())))
	assert.Empty(t, p.kubelet.missed, "it will be asked for what is known")
	assert.EqualValues(t, 1, asked.Load())
}
