// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCluster(t *testing.T) {
	c := open(t)
	manifests := render(t, "config.enableEventServer=true")
	agents := c.install(t, manifests)
	c.createNamespace(t, workNamespace)

	t.Run("smoke", func(t *testing.T) {
		pod, inode := c.create(t, newPod("smoke", "n1", "127.0.0.1:20001", "[::1]:20001"))
		a := agents["n1"]
		wait(t, "its reset", func() bool { return len(a.events(t, "TCPRESET_NOSOCK", 20001)) > 0 })
		t.Log(pod.Name, inode, a.events(t, "TCPRESET_NOSOCK", 20001)[0])
		t.Log(a.metrics(t, "inspector_pod_tcpoutrsts"))
		t.Log(a.self(t, "otelcol_netexporter_probe_up"))
		t.Log(tail(a.output(t, "stderr"), 60))
		assert.True(t, true)
		require.NotEmpty(t, inode)
	})
}
