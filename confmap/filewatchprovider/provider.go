// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package filewatchprovider is a configuration provider that reads a file as the stock `file:` does, and
// tells when its content has changed.
//
// The content is what counts, so that it does not matter how it changes: written in place, renamed over,
// or behind a symbolic link that points elsewhere, as in a mounted ConfigMap. It is read twice a second and not
// watched with inotify, because nodes run out of inotify instances (128 a user), and a file that is
// mounted by itself, or from the network, has no events.
package filewatchprovider

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/confmap"
	"go.uber.org/zap"
)

const (
	scheme = "filewatch"
	// interval is the time between two looks at a file. A change is told at the second look that finds it, so
	// that no file is taken that is being written.
	interval = 500 * time.Millisecond
)

// Parse makes the YAML of a collector's configuration of the content of a file.
type Parse func(content []byte) ([]byte, error)

// NewFactory returns the factory of the provider of the scheme `filewatch`.
func NewFactory() confmap.ProviderFactory {
	return NewFactoryFor(scheme, func(content []byte) ([]byte, error) { return content, nil })
}

// NewFactoryFor returns the factory of a provider of another scheme, of files in another form.
func NewFactoryFor(scheme string, parse Parse) confmap.ProviderFactory {
	return confmap.NewProviderFactory(func(set confmap.ProviderSettings) confmap.Provider {
		return newProvider(set, scheme, parse, interval)
	})
}

type provider struct {
	logger   *zap.Logger
	scheme   string
	parse    Parse
	interval time.Duration

	mu sync.Mutex
	// told is true once a change was told of since the last Retrieve. Files that change together, as those of a
	// ConfigMap do, are one change.
	told bool
}

func newProvider(set confmap.ProviderSettings, scheme string, parse Parse, interval time.Duration) *provider {
	logger := set.Logger
	if logger == nil {
		logger = zap.NewNop()
	}
	return &provider{logger: logger, scheme: scheme, parse: parse, interval: interval}
}

// Retrieve reads a file. The content may be anything that the stock provider of files takes.
func (p *provider) Retrieve(_ context.Context, uri string, changed confmap.WatcherFunc) (*confmap.Retrieved, error) {
	path, ok := strings.CutPrefix(uri, p.scheme+":")
	if !ok {
		return nil, fmt.Errorf("%q is not of the scheme %q", uri, p.scheme)
	}
	path = filepath.Clean(path)
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	yaml, err := p.parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p.mu.Lock()
	p.told = false
	p.mu.Unlock()
	if changed == nil {
		return confmap.NewRetrievedFromYAML(yaml)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.watch(ctx, path, content, func() { changed(&confmap.ChangeEvent{}) })
	}()
	return confmap.NewRetrievedFromYAML(yaml, confmap.WithRetrievedClose(func(context.Context) error {
		cancel()
		<-ended
		return nil
	}))
}

// watch tells once when a file has come to have other content. A file that is not there, or cannot be read, is no
// configuration: it is waited for.
func (p *provider) watch(ctx context.Context, path string, content []byte, tell func()) {
	ticker := time.NewTicker(p.interval)
	defer ticker.Stop()
	seen, readable := content, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := os.ReadFile(path)
		if err != nil {
			if readable {
				p.logger.Warn("The configuration file cannot be read; its last content stays in force", zap.Error(err))
			}
			readable = false
			continue
		}
		readable = true
		settled := bytes.Equal(now, seen)
		seen = now
		if settled && !bytes.Equal(now, content) {
			if p.first() {
				tell()
			}
			return
		}
	}
}

// first tells whether nothing was told of since the last Retrieve.
func (p *provider) first() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.told = true }()
	return !p.told
}

func (p *provider) Scheme() string { return p.scheme }

// Shutdown has nothing to end: each Retrieved ends its own watch.
func (p *provider) Shutdown(context.Context) error { return nil }
