// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"cmp"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/netexporter/netexporter/internal/kubeapi"
	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

// Which source knew a pod, the values of the attribute lookup_source in metadata.yaml.
const (
	sourceAPI          = "api"
	sourceTombstone    = "tombstone"
	sourceKubelet      = "kubelet"
	sourceLogDirectory = "log_directory"
	sourceNone         = "none"
)

// resolver knows the pods of this node. It must serve concurrent calls and not block.
type resolver interface {
	// lookup returns the pod of the UID or, where the UID is empty or unknown, of the container id, nil if there is none,
	// and what knew it; one of them may be empty.
	// The UID is spelled as in the cgroup path, which for a static pod is not that of the API. Neither is ever
	// given to another pod, so that a lookup needs no time.
	lookup(uid, containerID string) (p *pod, source string)
	// at returns the pod that had an address at a time, nil if there was none.
	at(addr netip.Addr, when time.Time) *pod
}

// firstAnswer is how long the start waits for the API server, so that the first pass has names and labels.
const firstAnswer = 3 * time.Second

// pods is the resolver of a node. The processors of one configuration share it: it starts with the first of
// them and ends with the last.
type pods struct {
	cfg       *Config
	logger    *zap.Logger
	telemetry *metadata.TelemetryBuilder
	forget    func()
	table     *table
	contact   *contact
	updated   chan struct{} // closed once the table is filled for the first time
	once      sync.Once

	mu       sync.Mutex
	users    int // processors that have started and not shut down
	node     string
	logs     *logDir
	kubelet  *kubelet // nil if it is not asked
	complain sync.Once
	stop     context.CancelFunc
	running  sync.WaitGroup
}

func newPods(set component.TelemetrySettings, cfg *Config, forget func()) (*pods, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set)
	if err != nil {
		return nil, err
	}
	p := &pods{
		cfg: cfg, logger: set.Logger, telemetry: telemetry, forget: forget,
		contact: &contact{logger: set.Logger}, updated: make(chan struct{}),
	}
	labels := podLabels(nil)
	if cfg.Verbose {
		labels = cfg.PodLabels
	}
	p.table = newTable(labels, func() {
		p.contact.answered(nil)
		p.once.Do(func() { close(p.updated) })
	})
	return p, nil
}

// start starts it for the first of its processors, and returns the name of the node as users know it.
func (p *pods) start(ctx context.Context) (node string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users > 0 {
		p.users++
		return p.node, nil
	}
	node, source, err := nodeName(p.cfg, os.Hostname)
	if err != nil {
		return "", err
	}
	// Kubernetes may have another name for it.
	kubeNode := cmp.Or(os.Getenv(p.cfg.NodeFromEnvVar), node)
	p.logger.Info("Name of the node", zap.String("node", node), zap.String("source", source), zap.String("k8s.node.name", kubeNode))
	p.logs = newLogDir(filepath.Join(cmp.Or(p.cfg.RootPath, "/"), "var/log/pods"), kubeNode)

	api, err := apiConfig(p.cfg)
	if err != nil {
		return "", err
	}
	if api == nil {
		p.logger.Info("No API server is asked for pods", zap.String("auth_type", p.cfg.AuthType))
		p.node, p.users = node, 1
		return node, nil
	}
	client, err := kubeapi.NewClient(api)
	if err != nil {
		return "", err
	}
	if p.cfg.Kubelet.Endpoint != "" {
		if p.kubelet, err = newKubelet(p.cfg.Kubelet, api, p.table.labels, p.logger); err != nil {
			return "", err
		}
	}
	if err := p.observe(); err != nil {
		return "", err
	}
	p.node, p.users = node, 1
	background, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.running.Go(func() { watchPods(background, client, kubeNode, p.table, p.contact) })
	if p.kubelet != nil {
		p.running.Go(func() { p.kubelet.run(background) })
	}
	select {
	case <-p.updated:
	case <-time.After(firstAnswer):
	case <-ctx.Done():
	}
	return node, nil
}

// shutdown ends it with the last of its processors. It is safe before start.
func (p *pods) shutdown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users > 1 {
		p.users--
		return
	}
	p.users = 0
	p.forget()
	p.telemetry.Shutdown()
	if p.stop != nil {
		p.stop()
		p.running.Wait()
		p.stop = nil
	}
}

// observe makes own telemetry tell of the API server and of what it told.
func (p *pods) observe() error {
	for _, register := range []func() error{
		func() error {
			return p.telemetry.RegisterNetexporterK8spodAPIConnectedCallback(func(_ context.Context, o metric.Int64Observer) error {
				var value int64
				if connected, _ := p.contact.state(); connected {
					value = 1
				}
				o.Observe(value)
				return nil
			})
		},
		func() error {
			return p.telemetry.RegisterNetexporterK8spodAPILastContactCallback(func(_ context.Context, o metric.Int64Observer) error {
				if _, last := p.contact.state(); !last.IsZero() {
					o.Observe(last.Unix())
				}
				return nil
			})
		},
		func() error {
			return p.telemetry.RegisterNetexporterK8spodPodsCallback(func(_ context.Context, o metric.Int64Observer) error {
				live, _ := p.table.counts()
				o.Observe(int64(live))
				return nil
			})
		},
		func() error {
			return p.telemetry.RegisterNetexporterK8spodTombstonesCallback(func(_ context.Context, o metric.Int64Observer) error {
				_, gone := p.table.counts()
				o.Observe(int64(gone))
				return nil
			})
		},
	} {
		if err := register(); err != nil {
			return err
		}
	}
	return nil
}

func (p *pods) lookup(uid, containerID string) (*pod, string) {
	if found, gone := p.table.lookup(uid, containerID); found != nil {
		if gone {
			return found, sourceTombstone
		}
		return found, sourceAPI
	}
	if p.kubelet != nil {
		if found := p.kubelet.lookup(uid, containerID); found != nil {
			return found, sourceKubelet
		}
	}
	if found := p.logs.lookup(uid); found != nil {
		return found, sourceLogDirectory
	}
	if err := p.logs.problem(); err != nil {
		p.complain.Do(func() {
			p.logger.Warn("The names of pods that the API server does not know cannot be read from their log directories", zap.Error(err))
		})
	}
	return nil, sourceNone
}

func (p *pods) at(addr netip.Addr, when time.Time) *pod {
	found := p.table.at(addr, when)
	if found == nil && p.kubelet != nil {
		found = p.kubelet.table.at(addr, when)
	}
	return found
}
