// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package filewatchprovider

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/confmap/confmaptest"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const often = time.Millisecond // as often as a test likes to look

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func asIs(content []byte) ([]byte, error) { return content, nil }

// watched is a file that is retrieved again after each change.
type watched struct {
	*provider
	uri     string
	changes chan struct{}
	ret     *confmap.Retrieved
}

func newWatched(t *testing.T, path string) *watched {
	w := &watched{provider: newProvider(confmap.ProviderSettings{}, scheme, asIs, often), uri: scheme + ":" + path, changes: make(chan struct{}, 100)}
	w.retrieve(t)
	t.Cleanup(func() {
		require.NoError(t, w.ret.Close(context.Background()))
		require.NoError(t, w.Shutdown(context.Background()))
	})
	return w
}

func (w *watched) retrieve(t *testing.T) {
	t.Helper()
	if w.ret != nil {
		require.NoError(t, w.ret.Close(t.Context()))
	}
	var err error
	w.ret, err = w.Retrieve(t.Context(), w.uri, func(e *confmap.ChangeEvent) {
		assert.NoError(t, e.Error)
		w.changes <- struct{}{}
	})
	require.NoError(t, err)
}

// has waits for a change and compares what the file has then.
func (w *watched) has(t *testing.T, want map[string]any) {
	t.Helper()
	<-w.changes
	w.retrieve(t)
	conf, err := w.ret.AsConf()
	require.NoError(t, err)
	assert.Equal(t, want, conf.ToStringMap())
}

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
}

func TestScheme(t *testing.T) {
	p := NewFactory().Create(confmap.ProviderSettings{})
	require.NoError(t, confmaptest.ValidateProviderScheme(p))
	assert.Equal(t, "filewatch", p.Scheme())
	_, err := p.Retrieve(t.Context(), "file:x", nil)
	assert.ErrorContains(t, err, `"file:x" is not of the scheme "filewatch"`)
}

func TestWritesInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "n: 0")
	w := newWatched(t, path)
	for i, content := range []string{"n: 1", "n: 2", "n: 3"} {
		write(t, path, content)
		w.has(t, map[string]any{"n": i + 1})
	}
}

func TestRenames(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	write(t, path, "n: 0")
	w := newWatched(t, path)
	for i, content := range []string{"n: 1", "n: 2", "n: 3"} {
		write(t, filepath.Join(dir, "new"), content)
		require.NoError(t, os.Rename(filepath.Join(dir, "new"), path))
		w.has(t, map[string]any{"n": i + 1})
	}
}

func TestLinksThatLeadElsewhere(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for i, content := range []string{"n: 0", "n: 1", "n: 2", "n: 3"} {
		version := at("..version_" + string(rune('0'+i)))
		require.NoError(t, os.Mkdir(version, 0o755))
		write(t, filepath.Join(version, "config.yaml"), content)
	}
	require.NoError(t, os.Symlink("..version_0", at("..data")))
	require.NoError(t, os.Symlink("..data/config.yaml", at("config.yaml")))
	w := newWatched(t, at("config.yaml"))
	for i, version := range []string{"..version_1", "..version_2", "..version_3"} {
		require.NoError(t, os.Symlink(version, at("..data_tmp")))
		require.NoError(t, os.Rename(at("..data_tmp"), at("..data")))
		w.has(t, map[string]any{"n": i + 1})
	}
}

// A file that is gone is no other configuration; its next content is.
func TestFileThatIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "n: 0")
	core, logs := observer.New(zap.WarnLevel)
	p := newProvider(confmap.ProviderSettings{Logger: zap.New(core)}, scheme, asIs, often)
	changes := make(chan struct{}, 10)
	ret, err := p.Retrieve(t.Context(), scheme+":"+path, func(*confmap.ChangeEvent) { changes <- struct{}{} })
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.Eventually(t, func() bool { return logs.Len() > 0 }, time.Minute, often)
	assert.Empty(t, changes)
	write(t, path, "n: 1")
	<-changes
	assert.Equal(t, 1, logs.Len(), "said once")
	require.NoError(t, ret.Close(t.Context()))
}

// Files that change together are one change; nothing is told after Close.
func TestOneChangeForAllFiles(t *testing.T) {
	dir := t.TempDir()
	p := newProvider(confmap.ProviderSettings{}, scheme, asIs, often)
	changes := make(chan struct{}, 10)
	var rets []*confmap.Retrieved
	for _, name := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, name), "n: 0")
		ret, err := p.Retrieve(t.Context(), scheme+":"+filepath.Join(dir, name), func(*confmap.ChangeEvent) { changes <- struct{}{} })
		require.NoError(t, err)
		rets = append(rets, ret)
	}
	for _, name := range []string{"a", "b", "c"} {
		write(t, filepath.Join(dir, name), "n: 1")
	}
	<-changes
	for _, ret := range rets {
		require.NoError(t, ret.Close(t.Context()))
	}
	assert.Empty(t, changes)
}

func TestParse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.conf")
	write(t, path, "x")
	f := NewFactoryFor("other", func(content []byte) ([]byte, error) {
		if string(content) != "x" {
			return nil, errors.New("not an x")
		}
		return []byte("n: 1"), nil
	})
	p := f.Create(confmap.ProviderSettings{})
	ret, err := p.Retrieve(t.Context(), "other:"+path, nil)
	require.NoError(t, err)
	conf, err := ret.AsConf()
	require.NoError(t, err)
	assert.Equal(t, map[string]any{"n": 1}, conf.ToStringMap())
	write(t, path, "y")
	_, err = p.Retrieve(t.Context(), "other:"+path, nil)
	assert.EqualError(t, err, path+": not an x")
}
