// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/processor/processortest"
	"k8s.io/client-go/rest"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

func TestAPIConfig(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	for _, auth := range []string{authAuto, authNone} {
		api, err := apiConfig(&Config{AuthType: auth})
		require.NoError(t, err)
		assert.Nil(t, api, auth)
	}
	_, err := apiConfig(&Config{AuthType: authServiceAccount})
	require.ErrorIs(t, err, rest.ErrNotInCluster)
	_, err = apiConfig(&Config{AuthType: authKubeConfig})
	require.ErrorContains(t, err, "auth_type kubeConfig: ")

	// In a cluster, but without its token: a mistake, even if nothing was asked for.
	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if _, err := os.Stat("/var/run/secrets/kubernetes.io/serviceaccount/token"); err == nil {
		t.Skip("this is in a cluster")
	}
	_, err = apiConfig(&Config{AuthType: authAuto})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// An API server that does not answer holds up neither the start nor the end.
func TestWithoutAPIServer(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	token := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(token, []byte("token"), 0o600))
	writeKubeconfig(t, kubeconfig, "https://127.0.0.1:1", token)
	t.Setenv("KUBECONFIG", kubeconfig)
	cfg := createDefaultConfig().(*Config)
	cfg.AuthType = authKubeConfig
	p, err := NewFactory().CreateMetrics(t.Context(), processortest.NewNopSettings(metadata.Type), cfg, consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, p.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, p.Shutdown(t.Context()))
}

func TestClockEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	after := (&clockUntil{ctx: ctx}).After(time.Hour)
	select {
	case <-after:
		t.Fatal("did not wait")
	default:
	}
	cancel()
	<-after
	<-(&clockUntil{ctx: t.Context()}).After(time.Millisecond)
}
