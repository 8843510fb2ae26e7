// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventline

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

const containerID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// attrs are attributes as pcommon.Map.FromRaw takes them.
type attrs map[string]any

// with returns a copy of a with the attributes of b put over it; a nil value removes the attribute.
func (a attrs) with(b attrs) attrs {
	c := maps.Clone(a)
	maps.Copy(c, b)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func noSock() attrs {
	return attrs{
		"event.name": "TCPRESET_NOSOCK", "network.transport": "tcp", "network.type": "ipv4",
		"source.address": "10.1.0.1", "source.port": 443, "destination.address": "10.1.0.2", "destination.port": 33488,
		"event.reason": "NO_SOCKET", "tcp.state": "", "event.suppressed": 0,
	}
}

func packetLoss() attrs {
	return attrs{
		"event.name": "PACKETLOSS", "network.transport": "udp", "network.type": "ipv4",
		"source.address": "10.1.0.1", "source.port": 40000, "destination.address": "10.1.0.2", "destination.port": 53,
		"event.reason": "NO_SOCKET", "event.location": "__udp4_lib_rcv+0x5E",
		"event.stacktrace": "sk_skb_reason_drop+0x7 __udp4_lib_rcv+0x5E ip_rcv+0x1", "event.suppressed": 0,
	}
}

func softirq() attrs {
	return attrs{
		"event.name": "NETSOFTIRQ_SCHED_SLOW", "cpu.logical_number": 1, "process.pid": 4711, "thread.name": "nginx",
		"softirq.vector": "NET_RX", "event.duration": 12_345_678, "event.suppressed": 0,
	}
}

func input(t testing.TB, resource, record attrs) (pcommon.Map, plog.LogRecord) {
	t.Helper()
	res, rec := pcommon.NewMap(), plog.NewLogRecord()
	require.NoError(t, res.FromRaw(resource))
	require.NoError(t, rec.Attributes().FromRaw(record))
	return res, rec
}

func TestAppend(t *testing.T) {
	const (
		noSockLine = "type=TCPRESET_NOSOCK protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488"
		lossLine   = "type=PACKETLOSS protocol=UDP saddr=10.1.0.1 sport=40000 daddr=10.1.0.2 dport=53 reason=NO_SOCKET" +
			" location=__udp4_lib_rcv+0x5E  stacktrace:sk_skb_reason_drop+0x7 __udp4_lib_rcv+0x5E ip_rcv+0x1"
	)
	v6 := attrs{"network.type": "ipv6", "source.address": "fd00::1", "destination.address": "fe80::ff:fe00:2"}
	process := noSock().with(attrs{"event.name": "TCPRESET_PROCESS", "tcp.state": "TCP_FIN_WAIT2"})
	host := attrs{"network.netns.inode": 4026531840, "network.netns.host": true, "pod": "hostNetwork", "namespace": "hostNetwork"}
	for _, tt := range []struct {
		name             string
		resource, record attrs
		want             string
	}{
		{"nothing known", nil, noSock(), noSockLine},
		{"empty labels", attrs{"pod": "", "namespace": "", "netns": "ns1", "node": "n"}, noSock(), noSockLine},
		{
			"pod",
			attrs{"pod": "storage-monitor-5775dfdc77-fj767", "namespace": "kube-system", "container.id": containerID, "network.netns.name": "cni-1"},
			noSock(),
			"type=TCPRESET_NOSOCK pod=storage-monitor-5775dfdc77-fj767 namespace=kube-system protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		},
		{
			"host", host, noSock(),
			"type=TCPRESET_NOSOCK pod=hostNetwork namespace=hostNetwork protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		},
		{"host before the labels", attrs{"network.netns.host": true}, noSock(), noSockLine},
		{"container before the labels", attrs{"container.id": containerID, "network.netns.name": "cni-1"}, noSock(), noSockLine + " container=0123456789ab"},
		{
			"container labelled",
			attrs{"container.id": containerID, "network.netns.name": "cni-1", "pod": "0123456789ab", "namespace": "container"},
			noSock(), noSockLine + " container=0123456789ab",
		},
		{"short container id", attrs{"container.id": "0123"}, noSock(), noSockLine + " container=0123"},
		{"named before the labels", attrs{"network.netns.name": "blue"}, noSock(), noSockLine + " netns=blue"},
		{"named labelled", attrs{"network.netns.name": "blue", "pod": "blue", "namespace": "netns"}, noSock(), noSockLine + " netns=blue"},
		{
			"namespace without a pod",
			attrs{"namespace": "n", "container.id": containerID, "network.netns.name": "blue"},
			noSock(), noSockLine + " container=0123456789ab",
		},

		{
			"IPv6", nil, noSock().with(v6),
			"type=TCPRESET_NOSOCK protocol=TCP saddr=fd00::1 sport=443 daddr=fe80::ff:fe00:2 dport=33488",
		},
		{
			"packet loss over IPv6 in the host", host, packetLoss().with(v6).with(attrs{"event.location": "__udp6_lib_rcv+0x5E", "event.stacktrace": "a+0x1"}),
			"type=PACKETLOSS pod=hostNetwork namespace=hostNetwork protocol=UDP saddr=fd00::1 sport=40000 daddr=fe80::ff:fe00:2 dport=53" +
				" reason=NO_SOCKET location=__udp6_lib_rcv+0x5E  stacktrace:a+0x1",
		},
		{"packet loss", nil, packetLoss(), lossLine},
		{"packet loss in a container", attrs{"container.id": containerID}, packetLoss(), lossLine + " container=0123456789ab"},
		{
			"packet loss without reason, location and stack",
			attrs{"network.netns.name": "blue"},
			packetLoss().with(attrs{"event.reason": "", "event.location": nil, "event.stacktrace": ""}),
			"type=PACKETLOSS protocol=UDP saddr=10.1.0.1 sport=40000 daddr=10.1.0.2 dport=53 netns=blue",
		},
		{
			"packet loss of another transport", nil,
			packetLoss().with(attrs{"network.transport": "132", "source.port": 0, "destination.port": 0, "event.stacktrace": nil}),
			"type=PACKETLOSS protocol=132 saddr=10.1.0.1 sport=0 daddr=10.1.0.2 dport=0 reason=NO_SOCKET location=__udp4_lib_rcv+0x5E",
		},
		{"another name of a transport", nil, attrs{"event.name": "PACKETLOSS", "network.transport": "sctp"}, "type=PACKETLOSS protocol=SCTP"},
		{
			"packet loss without addresses", nil,
			packetLoss().with(attrs{"network.transport": "", "source.address": "", "source.port": 0, "destination.address": "", "destination.port": 0, "event.stacktrace": nil}),
			"type=PACKETLOSS reason=NO_SOCKET location=__udp4_lib_rcv+0x5E",
		},

		{"reset of a process", nil, process, "type=TCPRESET_PROCESS protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488  state:TCP_FIN_WAIT2"},
		{
			"reset of a process in a container",
			attrs{"container.id": containerID},
			process,
			"type=TCPRESET_PROCESS protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488  state:TCP_FIN_WAIT2 container=0123456789ab",
		},
		{
			"reset of a process without a state", nil, process.with(attrs{"tcp.state": ""}),
			"type=TCPRESET_PROCESS protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		},
		{
			"reason and state of another reset", nil, noSock().with(attrs{"event.name": "TCP_RCV_RST_ESTAB", "tcp.state": "TCP_ESTABLISHED"}),
			"type=TCP_RCV_RST_ESTAB protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488",
		},

		{
			"suppressed, packet loss", nil, packetLoss().with(attrs{"event.suppressed": 12, "event.stacktrace": "a+0x1"}),
			"type=PACKETLOSS protocol=UDP saddr=10.1.0.1 sport=40000 daddr=10.1.0.2 dport=53 suppressed=12 reason=NO_SOCKET location=__udp4_lib_rcv+0x5E  stacktrace:a+0x1",
		},
		{
			"suppressed, reset of a process", nil, process.with(attrs{"event.suppressed": 1}),
			"type=TCPRESET_PROCESS protocol=TCP saddr=10.1.0.1 sport=443 daddr=10.1.0.2 dport=33488 suppressed=1  state:TCP_FIN_WAIT2",
		},
		{"suppressed, container", attrs{"container.id": containerID}, noSock().with(attrs{"event.suppressed": 3}), noSockLine + " suppressed=3 container=0123456789ab"},

		{"soft interrupt", attrs{"node": "n"}, softirq(), "type=NETSOFTIRQ_SCHED_SLOW cpu=1 pid=4711 comm=nginx vector=NET_RX latency=12.346ms"},
		{
			"soft interrupt on an idle CPU", nil,
			softirq().with(attrs{"cpu.logical_number": 0, "process.pid": 0, "thread.name": "swapper/0", "event.duration": 1000}),
			"type=NETSOFTIRQ_SCHED_SLOW cpu=0 pid=0 comm=swapper/0 vector=NET_RX latency=0.001ms",
		},
		{
			"soft interrupt, suppressed", nil, softirq().with(attrs{"event.suppressed": 3, "event.duration": 1_000_000_001}),
			"type=NETSOFTIRQ_SCHED_SLOW cpu=1 pid=4711 comm=nginx vector=NET_RX latency=1000.001ms suppressed=3",
		},
		{
			"thread with a name of many words", nil, softirq().with(attrs{"thread.name": "a b=c", "event.duration": math.MaxInt64}),
			"type=NETSOFTIRQ_SCHED_SLOW cpu=1 pid=4711 comm=a%20b%3Dc vector=NET_RX latency=9223372036854.776ms",
		},

		{"no attributes", nil, nil, "type="},
		{"name only", attrs{"network.netns.name": "blue"}, attrs{"event.name": "TCP_RCV_RST_TW"}, "type=TCP_RCV_RST_TW netns=blue"},
		{
			"ports missing", nil, noSock().with(attrs{"source.port": nil, "destination.port": nil}),
			"type=TCPRESET_NOSOCK protocol=TCP saddr=10.1.0.1 daddr=10.1.0.2",
		},

		{"name with a space", attrs{"network.netns.name": "a pod=b"}, noSock(), noSockLine + " netns=a%20pod%3Db"},
		{"name with line ends", attrs{"network.netns.name": "a\r\ntype=b\u2028\u0085"}, noSock(), noSockLine + " netns=a%0D%0Atype%3Db%E2%80%A8%C2%85"},
		{"name with quotes", attrs{"network.netns.name": `"a'\%`}, noSock(), noSockLine + ` netns=%22a'\%25`},
		{"name that is not UTF-8", attrs{"network.netns.name": "\xff\x00\x7f"}, noSock(), noSockLine + " netns=%FF%00%7F"},
		{"labels", attrs{"pod": "a b", "namespace": "c\td"}, attrs{"event.name": "X\nY"}, "type=X%0AY pod=a%20b namespace=c%09d"},
		{
			"stack", nil, packetLoss().with(attrs{"event.stacktrace": " a+0x1\n b+0x2 pod=x  state:Y\t"}),
			"type=PACKETLOSS protocol=UDP saddr=10.1.0.1 sport=40000 daddr=10.1.0.2 dport=53 reason=NO_SOCKET location=__udp4_lib_rcv+0x5E" +
				"  stacktrace:a+0x1 b+0x2 pod%3Dx state:Y",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			res, rec := input(t, tt.resource, tt.record)
			assert.Equal(t, tt.want, string(Append(nil, res, rec)))
			assert.Equal(t, "before "+tt.want, string(Append([]byte("before "), res, rec)), "dst is kept")
		})
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	res, rec := input(t, attrs{"container.id": containerID, "pod": "p", "namespace": "n"}, packetLoss())
	dst := make([]byte, 0, 1024)
	assert.Zero(t, testing.AllocsPerRun(100, func() { dst = Append(dst[:0], res, rec) }))
}

// FuzzAppend puts any text into any attribute and reads the line back: each field must be there once, with its own value.
func FuzzAppend(f *testing.F) {
	f.Add("PACKETLOSS", "pod-1", "default", "", "", "udp", "10.0.0.1", "fd00::1", "NO_SOCKET", "f+0x1", "f+0x1 g+0x2", "", "swapper/0", int64(1))
	f.Add("TCPRESET_PROCESS", "", "", containerID, "blue", "tcp", "10.0.0.1", "10.0.0.2", "", "", "", "TCP_FIN_WAIT2", "", int64(0))
	f.Add("TCPRESET_NOSOCK", "blue", "netns", "", "blue", "tcp", "::1", "::1", "", "", "", "", "a  latency=1", int64(-1))
	f.Add("a\nb", "a pod=b", "\"", "\r", "a\u2028netns=b", "%", "=", "\xff", "  state:", "  stacktrace:", "a  state:b c=d", " ", "\xff\n=", int64(7))
	f.Fuzz(func(t *testing.T, name, pod, namespace, container, netns, transport, source, destination, reason, location, stack, state, comm string, n int64) {
		res, rec := input(t, attrs{
			"pod": pod, "namespace": namespace, "container.id": container, "network.netns.name": netns,
		}, attrs{
			"event.name": name, "network.transport": transport, "source.address": source, "source.port": n,
			"destination.address": destination, "destination.port": n, "event.suppressed": n, "event.reason": reason,
			"event.location": location, "event.stacktrace": stack, "tcp.state": state,
			"cpu.logical_number": n, "process.pid": n, "thread.name": comm, "softirq.vector": comm, "virtio.command": comm,
			"event.duration": n,
		})
		line := string(Append(nil, res, rec))

		for i := range len(line) {
			require.True(t, line[i] >= ' ' && line[i] <= '~', "byte %d of %q", i, line)
		}
		require.True(t, strings.HasPrefix(line, "type="), "%q", line)

		us := max(0, n)/1000 + min(1, max(0, n)%1000) // rounded up
		want := map[string]string{
			"protocol": strings.ToUpper(transport), "saddr": source, "daddr": destination,
			"cpu": strconv.FormatInt(n, 10), "pid": strconv.FormatInt(n, 10), "comm": comm, "vector": comm, "command": comm,
			"latency": fmt.Sprintf("%d.%03dms", us/1000, us%1000),
		}
		if source != "" {
			want["sport"] = strconv.FormatInt(n, 10)
		}
		if destination != "" {
			want["dport"] = strconv.FormatInt(n, 10)
		}
		if n > 0 {
			want["suppressed"] = strconv.FormatInt(n, 10)
		}
		short := container[:min(12, len(container))]
		switch {
		case pod != "" && pod != short && pod != netns:
			want["pod"], want["namespace"] = pod, namespace
		case short != "":
			want["container"] = short
		default:
			want["netns"] = netns
		}
		var wantStack []string
		switch name {
		case "PACKETLOSS":
			want["reason"], want["location"], wantStack = reason, location, strings.Fields(stack)
		case "TCPRESET_PROCESS":
			want["state"] = state
		}
		maps.DeleteFunc(want, func(_, v string) bool { return v == "" })
		want["type"] = name

		fields, functions := parse(t, line)
		assert.Equal(t, want, fields, "%q", line)
		assert.Equal(t, strings.Join(wantStack, "\n"), strings.Join(functions, "\n"), "%q", line)
	})
}

// parse takes a line apart as a reader of logs would, by its spaces and equals signs.
func parse(t *testing.T, line string) (fields map[string]string, functions []string) {
	t.Helper()
	fields = map[string]string{}
	set := func(key, value string) {
		require.NotContains(t, fields, key, "%q", line)
		fields[key] = unescape(t, value)
	}
	head, tail, _ := strings.Cut(line, "  ")
	require.NotContains(t, tail, "  ")
	for token := range strings.SplitSeq(head, " ") {
		key, value, ok := strings.Cut(token, "=")
		require.True(t, ok, "%q in %q", token, line)
		set(key, value)
	}
	for i, token := range strings.Fields(tail) {
		switch key, value, ok := strings.Cut(token, "="); {
		case ok:
			set(key, value)
		case i == 0 && strings.HasPrefix(token, "state:"):
			set("state", strings.TrimPrefix(token, "state:"))
		case i == 0:
			require.True(t, strings.HasPrefix(token, "stacktrace:"), "%q", line)
			functions = append(functions, unescape(t, strings.TrimPrefix(token, "stacktrace:")))
		default:
			functions = append(functions, unescape(t, token))
		}
	}
	return fields, functions
}

func unescape(t *testing.T, s string) string {
	t.Helper()
	u, err := url.PathUnescape(s)
	require.NoError(t, err)
	return u
}

func BenchmarkAppend(b *testing.B) {
	for name, record := range map[string]attrs{"PACKETLOSS": packetLoss(), "TCPRESET_NOSOCK": noSock()} {
		b.Run(name, func(b *testing.B) {
			res, rec := input(b, attrs{"container.id": containerID, "network.netns.inode": 4026532345, "pod": "elastic-operator-0", "namespace": "elastic-system"}, record)
			var dst []byte
			b.ReportAllocs()
			for b.Loop() {
				dst = Append(dst[:0], res, rec)
			}
		})
	}
}
