// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/internal/agenttest"
	"github.com/netexporter/netexporter/internal/nettest"
)

// configMap is a directory as the kubelet mounts a ConfigMap: its file is a link into the directory that the link ..data
// leads to, and a change is another ..data.
type configMap struct {
	dir     string
	changes int
}

func newConfigMap(t testing.TB, content string) *configMap {
	t.Helper()
	m := &configMap{dir: t.TempDir()}
	m.set(t, content)
	require.NoError(t, os.Symlink(filepath.Join("..data", "config.yaml"), m.file()))
	return m
}

func (m *configMap) file() string { return filepath.Join(m.dir, "config.yaml") }

// set changes the content as the kubelet does.
func (m *configMap) set(t testing.TB, content string) {
	t.Helper()
	data, link := filepath.Join(m.dir, "..data"), filepath.Join(m.dir, "..data_tmp")
	before, _ := os.Readlink(data)
	m.changes++
	name := fmt.Sprintf("..version_%d", m.changes)
	require.NoError(t, os.Mkdir(filepath.Join(m.dir, name), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(m.dir, name, "config.yaml"), []byte(content), 0o644))
	require.NoError(t, os.Symlink(name, link))
	require.NoError(t, os.Rename(link, data))
	if before != "" {
		require.NoError(t, os.RemoveAll(filepath.Join(m.dir, before)))
	}
}

// steadyResets makes a hundred resets a second, IPv4 and IPv6, until it is stopped, which returns how many they were.
func steadyResets(t testing.TB, p *nettest.Pair) (stop func() int) {
	t.Helper()
	var (
		made    int
		traffic sync.WaitGroup
	)
	end := make(chan struct{})
	traffic.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-end:
				return
			case <-ticker.C:
				p.ConnectClosedPort(t, nettest.Families()[made%2])
				made++
			}
		}
	})
	return func() int {
		close(end)
		traffic.Wait()
		return made
	}
}

var (
	counterType = regexp.MustCompile(`^# TYPE (\S+) counter$`)
	nodeLabel   = regexp.MustCompile(`node="[^"]*"`)
)

// watchCounters scrapes until it is stopped, and notes each counter of the node or of some namespaces that has gone back.
// The label node may change. Those of other namespaces may fall: an interface that is deleted takes its bytes along.
func (a *agent) watchCounters(of ...*nettest.Namespace) (stop func() (fallen []string)) {
	var (
		fallen  []string
		watcher sync.WaitGroup
	)
	end, last := make(chan struct{}), map[string]float64{}
	look := func() {
		text, err := agenttest.Get(a.Metrics)
		if err != nil {
			return // it restarts
		}
		counters := map[string]bool{}
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if m := counterType.FindStringSubmatch(line); m != nil {
				counters[m[1]] = true
			}
			m := sampleLine.FindStringSubmatch(line)
			if m == nil || !counters[m[1]] {
				continue
			}
			isOf := func(n *nettest.Namespace) bool { return strings.Contains(m[2], `pod="`+n.Name+`"`) }
			if strings.Contains(m[2], "pod=") && !slices.ContainsFunc(of, isOf) {
				continue
			}
			key := m[1] + "{" + nodeLabel.ReplaceAllString(m[2], "") + "}"
			if value, err := strconv.ParseFloat(m[3], 64); err == nil {
				if value < last[key] {
					fallen = append(fallen, fmt.Sprintf("%s from %v to %v", key, last[key], value))
				}
				last[key] = value
			}
		}
	}
	watcher.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
				look()
			}
		}
	})
	return func() []string {
		close(end)
		watcher.Wait()
		return fallen
	}
}

// configChanges waits for a number of changes with an outcome; the page is away while the collector restarts.
func (a *agent) configChanges(t testing.TB, outcome string, n int) {
	t.Helper()
	agenttest.Wait(t, fmt.Sprintf("%d changes %s", n, outcome), func() bool {
		text, err := agenttest.Get(a.Self)
		return err == nil && strings.Contains(text, fmt.Sprintf("otelcol_netexporter_config_changes{outcome=%q} %d\n", outcome, n))
	})
}

// onPage tells whether a namespace has a counter, on the node of this name.
func (a *agent) onPage(n *nettest.Namespace, node, name string) bool {
	text, err := agenttest.Get(a.Metrics)
	return err == nil && regexp.MustCompile(`(?m)^`+name+`\{.*node="`+node+`",pod="`+n.Name+`".*\}`).MatchString(text)
}

// offPage tells whether a namespace has other counters, but not this one.
func (a *agent) offPage(t testing.TB, n *nettest.Namespace, name string) bool {
	text, err := agenttest.Get(a.Metrics)
	if err != nil {
		return false
	}
	values := parsePage(t, text).of(n)
	_, there := values[name]
	return len(values) > 0 && !there
}

func (a *agent) isUp(probe string) bool {
	text, err := agenttest.Get(a.Self)
	return err == nil && strings.Contains(text, fmt.Sprintf("otelcol_netexporter_probe_up{probe=%q} 1", probe))
}

// Changes of a mounted ConfigMap act, or are refused by name, and a probe that they do not concern misses nothing.
func TestConfigMapChanges(t *testing.T) {
	const unchanged = `
receivers:
  netexporter:
    collection_interval: 500ms
    probes:
      tcpreset: {events_per_second: 100000}
`
	m := newConfigMap(t, unchanged)
	a := start(t, "filewatch:"+m.file())
	host := hostName(t)
	p := nettest.New(t)
	agenttest.Wait(t, "the namespace to be known by its name", func() bool { return a.page(t).of(p.B) != nil })
	watcher := watch(t, []agent{a}, "-t", "TCPRESET_NOSOCK")
	resetsMade := steadyResets(t, p)
	fallen := a.watchCounters(p.A, p.B)

	accepted, refused := 0, 0
	for _, tt := range []struct {
		name, change string
		acts         func() bool
		refusal      string // of an invalid one, as the log has it
	}{
		{"label", "processors: {k8spod: {node: first}}", func() bool { return a.onPage(p.B, "first", "inspector_pod_tcpoutrsts") }, ""},
		{"unknown probe", "      tcpresett: {}", nil, "probes::tcpresett: no such probe"},
		{"probe off", "      packetloss: {enabled: false}", func() bool {
			return a.isUp("tcpreset") && a.offPage(t, p.B, "inspector_pod_totalloss")
		}, ""},
		{"not YAML", "receivers: [", nil, m.file()},
		{"one more probe", "      packetloss: {enabled: false}\n      net_softirq:", func() bool { return a.isUp("net_softirq") }, ""},
		{"fewer counters", "      packetloss: {enabled: false}\n      tcpext: {enabled: false}", func() bool {
			return a.offPage(t, p.B, "inspector_pod_tcpextlistendrops")
		}, ""},
		{"no such exporter", "      packetloss: {enabled: false}\nservice: {pipelines: {metrics: {exporters: [nowhere]}}}", nil, `which is not configured`},
		{"no misspelt names", "      packetloss: {enabled: false}\n    documented_spellings: false", func() bool {
			return a.onPage(p.B, host, "inspector_pod_tcppassiveopens") && a.offPage(t, p.B, "inspector_pod_tcppassiveopenes")
		}, ""},
		{"other label", "      packetloss: {enabled: false}\nprocessors: {k8spod: {node: last}}", func() bool { return a.onPage(p.B, "last", "inspector_pod_tcpoutrsts") }, ""},
		{"back", "      packetloss: {enabled: false}", func() bool { return a.onPage(p.B, host, "inspector_pod_tcpoutrsts") }, ""},
	} {
		logged := len(a.Stderr.String())
		m.set(t, unchanged+tt.change+"\n")
		if tt.acts != nil {
			accepted++
			a.configChanges(t, "accepted", accepted)
			a.configChanges(t, "refused", refused)
			agenttest.Wait(t, tt.name+" to act", tt.acts)
			assert.InDelta(t, 1, a.own(t, "otelcol_netexporter_config_current"), 0, tt.name)
			continue
		}
		refused++
		a.configChanges(t, "refused", refused)
		a.configChanges(t, "accepted", accepted)
		assert.InDelta(t, 0, a.own(t, "otelcol_netexporter_config_current"), 0, tt.name)
		assert.Contains(t, a.Stderr.String()[logged:], tt.refusal, tt.name)
		assert.True(t, a.isUp("tcpreset"), tt.name)
	}

	made := resetsMade()
	const counted = `inspector_pod_tcpreset{reason="NO_SOCKET",type="TCPRESET_NOSOCK"}`
	agenttest.Wait(t, fmt.Sprintf("all of %d resets to be counted", made), func() bool { return a.page(t).of(p.B)[counted] >= float64(made) })
	lines := func() (n int) {
		for _, line := range a.events("netns=" + p.B.Name) {
			if strings.HasPrefix(line, "type=TCPRESET_NOSOCK ") {
				n++
			}
		}
		return n
	}
	agenttest.Wait(t, "their events", func() bool { return lines() >= made })
	watched := func() int { return len(matching(watcher, " Pod="+p.B.Name+" ")) }
	agenttest.Wait(t, "one who has watched all the time to have all, too", func() bool { return watched() >= made })
	assert.Equal(t, made, watched())
	assert.Equal(t, accepted, strings.Count(watcher.Stderr.String(), ": connected again, going on where it was at "))
	for _, alarm := range []string{"started anew", "lost"} {
		assert.NotContains(t, watcher.Stderr.String(), alarm)
	}
	assert.Empty(t, fallen(), "counters that have gone back")
	assert.InDelta(t, made, a.page(t).of(p.B)[counted], 0)
	assert.Equal(t, made, lines())
	t.Logf("%d resets", made)
}

// A configuration that is valid, but that the collector cannot start with, is taken back.
func TestConfigRollBack(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	change := agenttest.WriteFile(t, "change.yaml", "")
	a := start(t, "filewatch:"+change)
	p := nettest.New(t)
	programs := a.kernelObjects(t)

	write := func(content string) { require.NoError(t, os.WriteFile(change, []byte(content), 0o644)) }
	write(fmt.Sprintf("receivers: {otlp: {protocols: {http: {endpoint: %q}}}}\nservice: {pipelines: {logs: {receivers: [netexporter, otlp]}}}", taken.Addr()))
	a.configChanges(t, "rolled_back", 1)
	p.ConnectClosedPort(t, nettest.IPv4)
	agenttest.Wait(t, "a reset to be on the page", func() bool { return a.onPage(p.B, hostName(t), "inspector_pod_tcpreset") })
	assert.Contains(t, a.Stderr.String(), "address already in use")
	assert.Equal(t, programs, a.kernelObjects(t))

	write("processors: {k8spod: {node: next}}")
	agenttest.Wait(t, "the next change to act", func() bool { return a.onPage(p.B, "next", "inspector_pod_tcpreset") })
}

// SIGHUP with an invalid configuration changes nothing, wherever it is from.
func TestSIGHUPWithInvalidConfiguration(t *testing.T) {
	change := agenttest.WriteFile(t, "change.yaml", "")
	a := start(t, change)
	for i, content := range []string{"receivers: {netexporter: {max_series: -1}}", "receivers: ["} {
		require.NoError(t, os.WriteFile(change, []byte(content), 0o644))
		a.Signal(t, syscall.SIGHUP)
		a.configChanges(t, "refused", i+1)
		agenttest.Wait(t, "the agent to run again", func() bool { return a.isUp("tcpreset") })
	}
	assert.Contains(t, a.Stderr.String(), "max_series: must be 0 or more, got -1")
}

// The documented ConfigMap file, as it is by default and then changed.
func TestDocumentedConfigMap(t *testing.T) {
	m := newConfigMap(t, "debugmode: false\nmetric_config:\n  port: 9102\n  verbose: false\n  interval: 1\n  probes: []\n")
	ports := agenttest.FreePorts(t, agenttest.Ports)
	// What moves the ports stands behind what the file says.
	a := startWith(t, nil, ports[0], ports[1], "--config", "compat:"+m.file(), "--config", "yaml:"+agenttest.PortsConfig(ports))
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	agenttest.Wait(t, "the default set", func() bool {
		values := a.page(t).of(p.B)
		return values["inspector_pod_udpnoports"] == 1 && values["inspector_pod_packetloss_abnormal"] == 1
	})

	m.set(t, "metric_config: {port: 9102, interval: 1, probes: [udp, no_such_probe]}\n")
	a.configChanges(t, "refused", 1)
	assert.Contains(t, a.Stderr.String(), "probes::no_such_probe: no such probe")

	m.set(t, "metric_config: {port: 9102, interval: 1, probes: [udp]}\n")
	agenttest.Wait(t, "one probe alone", func() bool {
		return a.onPage(p.B, hostName(t), "inspector_pod_udpnoports") && a.offPage(t, p.B, "inspector_pod_tcpoutrsts")
	})
}

// The documented events: as a stream on their port, and in Loki.
func TestDocumentedEvents(t *testing.T) {
	pushed := make(chan string, 1000)
	loki := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case pushed <- r.URL.Path:
		default:
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer loki.Close()
	ports := agenttest.FreePorts(t, 4)
	file := agenttest.WriteFile(t, "config.yaml", fmt.Sprintf(`
debugmode: false
event_config: {port: %d, loki_enable: true, loki_address: %q, probes: [tcpreset]}
metric_config: {port: %d, interval: 1}
`, ports[3], loki.Listener.Addr(), ports[0]))
	a := startWith(t, nil, ports[0], ports[1], "--config", "compat:"+file, "--config", "yaml:"+fmt.Sprintf(`
extensions: {health_check: {endpoint: "127.0.0.1:%d"}}
service: {telemetry: {metrics: {readers: [{pull: {exporter: {prometheus: {host: 127.0.0.1, port: %d}}}}]}}}
`, ports[2], ports[1]))
	p := nettest.New(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1, true)
	p.ConnectClosedPort(t, nettest.IPv6)
	assert.Equal(t, "/loki/api/v1/push", <-pushed)
	agenttest.Wait(t, "the reset's line", func() bool { return len(a.events("netns="+p.B.Name)) > 0 })
	agenttest.Wait(t, "the drop to be counted", func() bool { return a.onPage(p.B, hostName(t), "inspector_pod_packetloss_abnormal") })
	for _, line := range a.events("netns=" + p.B.Name) {
		assert.Contains(t, line, "type=TCPRESET_NOSOCK ", "events of one probe alone")
	}
	list := agenttest.Run(t, nil, agenttest.Program(t, "inspector"), "list", "event", "-e", agenttest.Loopback(ports[3]))
	assert.Zero(t, list.ExitCode(t))
	assert.Contains(t, list.Stdout.String(), "TCPRESET_NOSOCK")
}

// The documented look-up, pick a node and search a word, finds events in Loki, whose address the file has or which is the Service
// grafana-loki of the agent's own namespace.
func TestDocumentedLoki(t *testing.T) {
	loki := agenttest.StartLoki(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(loki.URL, "http://"), ":")
	for name, tt := range map[string]struct {
		config      string
		environment []string
	}{
		"address": {"loki_address: 127.0.0.1:" + port, nil},
		"Service": {`loki_address: ""`, []string{"GRAFANA_LOKI_SERVICE_HOST=127.0.0.1", "GRAFANA_LOKI_SERVICE_PORT=" + port}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newConfigMap(t, "debugmode: false\nevent_config:\n  port: 19102\n  loki_enable: true\n  "+tt.config+"\n  probes: []\n"+
				"metric_config:\n  port: 9102\n  verbose: false\n  interval: 5\n  probes: []\n")
			ports := agenttest.FreePorts(t, agenttest.Ports)
			startWith(t, func(cmd *exec.Cmd) {
				cmd.Env = append(os.Environ(), append(tt.environment, "K8S_NODE_NAME=node of "+name)...)
			},
				ports[0], ports[1], "--config", "compat:"+m.file(), "--config", "yaml:"+agenttest.PortsConfig(ports))
			p := nettest.New(t)
			for _, f := range nettest.Families() {
				reset := p.ConnectClosedPort(t, f)
				agenttest.Wait(t, "the event to be found in Loki", func() bool {
					return len(loki.Query(t, fmt.Sprintf("{node=%q} |= `TCPRESET_NOSOCK` |= `dport=%d`", "node of "+name, reset.Source.Port()))) == 1
				})
			}
			drop := p.UDPToClosedPort(t, nettest.IPv4, 1, true)
			agenttest.Wait(t, "a drop's, too: the default set", func() bool {
				return len(loki.Query(t, fmt.Sprintf("{node=%q} |= `PACKETLOSS` |= `dport=%d`", "node of "+name, drop.Destination.Port()))) > 0
			})
		})
	}
}
