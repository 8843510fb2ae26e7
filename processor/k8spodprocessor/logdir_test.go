// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLogDir(t *testing.T) {
	path := t.TempDir()
	mkdir := func(name string) {
		t.Helper()
		require.NoError(t, os.Mkdir(filepath.Join(path, name), 0o755))
	}
	mkdir("kube-system_kube-proxy-worker-1_" + staticUID)
	mkdir(mirrorUID) // as before Kubernetes 1.14
	d := newLogDir(path, "worker-1")
	now := time.Now()
	d.now = func() time.Time { return now }

	p := d.lookup(staticUID)
	require.NotNil(t, p)
	assert.Equal(t, map[string]any{
		"k8s.pod.name": "kube-proxy-worker-1", "k8s.namespace.name": "kube-system", "k8s.pod.uid": staticUID, "k8s.node.name": "worker-1",
	}, p.attrs.AsRaw())
	assert.Nil(t, d.lookup(mirrorUID))
	assert.Nil(t, d.lookup(uid))
	assert.Nil(t, d.lookup(""))

	// A new one is known at once, one that is gone for a while.
	mkdir("default_web-0_" + uid)
	assert.Equal(t, "web-0", named(d.lookup(uid)))
	require.NoError(t, os.Remove(filepath.Join(path, "default_web-0_"+uid)))
	assert.Nil(t, d.lookup(mirrorUID)) // looks at the directory
	assert.Equal(t, "web-0", named(d.lookup(uid)))
	now = now.Add(tombstone + time.Second)
	mkdir("default_web-1_" + otherID)
	assert.Nil(t, d.lookup(mirrorUID))
	assert.Nil(t, d.lookup(uid))
	require.NoError(t, d.problem())
}

func TestNoLogDir(t *testing.T) {
	d := newLogDir(filepath.Join(t.TempDir(), "none"), "worker-1")
	assert.Nil(t, d.lookup(uid))
	require.ErrorIs(t, d.problem(), fs.ErrNotExist)
}
