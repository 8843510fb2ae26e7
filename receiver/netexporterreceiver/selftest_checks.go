// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// selfChecks are what the self-test makes happen. Together they exercise every hook that something
// within private namespaces can reach.
func selfChecks() []selfCheck {
	return []selfCheck{
		{"tcp", []string{netns.HookNamespaces}, "a connection to a closed port", checkTCP},
		{"tcpext", []string{netns.HookNamespaces}, "a close with unread data", checkTCPExt},
		{"tcpsummary", []string{netns.HookSockets}, "a connection with unread data", checkSockets},
		{"tcplisten", []string{netns.HookListeners}, "a connection that nobody accepts", checkListeners},
		{"udp", []string{netns.HookNamespaces}, "datagrams to a closed port", checkUDP},
		{"fd", []string{netns.HookTasks}, "this process", checkFDs},
		{"io", []string{netns.HookTasks}, "this process", checkIO},
		{"netdev", []string{netns.HookNetlink}, "datagrams", checkDevices},
		{"conntrack", []string{netns.HookNetlink}, "datagrams", checkConntrack},
		{"softnet", []string{hookNode}, "datagrams", checkSoftnet},
		{"slab", []string{hookNode}, "sockets", checkSlab},
		{"packetloss", []string{"drop"}, "a datagram to a closed port", checkLoss},
		{"tcpreset", []string{"sent"}, "a connection to a closed port", checkNoSocket},
		{"tcpreset", []string{"received"}, "a connection to a closed port", checkReceived((*nettest.Pair).ConnectClosedPort, "TCP_RCV_RST_SYN", "TCP_SYN_SENT")},
		{"tcpreset", []string{"sent"}, "a close with SO_LINGER of 0", checkLinger},
		{"tcpreset", []string{"received"}, "a close with SO_LINGER of 0", checkReceived((*nettest.Pair).LingerZeroClose, "TCP_RCV_RST_ESTAB", "TCP_ESTABLISHED")},
		{"tcpreset", []string{"sent"}, "data after the close", checkLateData},
		{"tcpreset", []string{"silent"}, "a reset of a half-open connection", checkReceived((*nettest.Pair).HalfOpenReset, "TCP_RCV_RST_SYN", "TCP_SYN_RECV")},
		{"tcpreset", []string{"silent"}, "a reset in TIME_WAIT", checkReceived((*nettest.Pair).ResetInTimeWait, "TCP_RCV_RST_TW", "TCP_TIME_WAIT")},
		{"tcptwrcv", []string{"processed"}, "a segment in TIME_WAIT", checkTimeWaitSegment},
		{"net_softirq", []string{"softirq"}, "traffic", checkSoftirq},
		{"socketlatency", []string{"arrival", "read"}, "a late reader", checkLateRead},
		{"socketlatency", []string{"write", "sent"}, "a closed window", checkClosedWindow},
		{"kernellatency", []string{"send", "dequeue"}, "a token bucket", checkSlowTransmission},
		{"kernellatency", []string{"receive", "deliver"}, "a connection", checkReception},
		{"netiftxlat", []string{"enqueue", "dequeue"}, "a token bucket", checkSlowQueue},
	}
}

func checkTCP(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.ConnectClosedPort(t, f)
	s.counted(t, k.To.Inode, map[string]int64{"inspector_pod_tcpactiveopens": 1})
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_tcpoutrsts": 1})
}

func checkTCPExt(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.CloseWithUnreadData(t, f)
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_tcpexttcpabortonclose": 1})
}

func checkSockets(t nettest.T, s *selfTest, f nettest.Family) {
	client, _ := s.pair.ConnectTCP(t, f)
	if _, err := client.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	s.counted(t, s.pair.B.Inode, map[string]int64{
		"inspector_pod_tcpsummarytcpestablishedconn": 1,
		"inspector_pod_tcpsummarytcprxqueue":         100,
	})
}

func checkListeners(t nettest.T, s *selfTest, f nettest.Family) {
	listener := s.pair.B.ListenTCP(t, f)
	s.pair.A.DialTCP(t, listener.Addr().(*net.TCPAddr).AddrPort())
	s.counted(t, s.pair.B.Inode, map[string]int64{
		"inspector_pod_tcplistensockets":          1,
		"inspector_pod_tcplistenacceptqueue":      1,
		"inspector_pod_tcplistenacceptqueuelimit": 1,
	})
}

func checkUDP(t nettest.T, s *selfTest, f nettest.Family) {
	s.pair.UDPToClosedPort(t, f, 3, true)
	s.counted(t, s.pair.A.Inode, map[string]int64{"inspector_pod_udpoutdatagrams": 3})
	s.counted(t, s.pair.B.Inode, map[string]int64{"inspector_pod_udpnoports": 3})
}

// own returns the namespace that this process is in.
func own(t nettest.T) uint64 {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &stat); err != nil {
		t.Fatalf("find the own network namespace: %v", err)
	}
	return stat.Ino
}

func checkFDs(t nettest.T, s *selfTest, _ nettest.Family) {
	s.counted(t, own(t), map[string]int64{"inspector_pod_fdopenfd": 3})
}

func checkIO(t nettest.T, s *selfTest, _ nettest.Family) {
	s.counted(t, own(t), map[string]int64{"inspector_pod_ioioreadsyscall": 1})
}

// checkDevices asks for this process's own namespace: nothing else leads into the private ones.
func checkDevices(t nettest.T, s *selfTest, _ nettest.Family) {
	s.counted(t, own(t), map[string]int64{"inspector_pod_netdevrxpackets": 0, "inspector_pod_netdevtxbytes": 0})
}

func checkConntrack(t nettest.T, s *selfTest, _ nettest.Family) {
	s.counted(t, own(t), map[string]int64{"inspector_pod_conntrackentries": 0, "inspector_pod_conntrackfound": 0})
}

func checkSoftnet(t nettest.T, s *selfTest, f nettest.Family) {
	s.pair.UDPToClosedPort(t, f, 3, true)
	s.counted(t, 0, map[string]int64{"inspector_node_softnetprocessed": 3})
}

func checkSlab(t nettest.T, s *selfTest, f nettest.Family) {
	s.pair.ConnectTCP(t, f)
	s.counted(t, 0, map[string]int64{"inspector_node_slabtcpslabobjsize": 1, "inspector_node_slabtcpslabobjnum": 1})
}

func checkLoss(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.UDPToClosedPort(t, f, 1, true)
	want := flow(f, "udp", k.Source, k.Destination)
	want["event.reason"] = s.reason("skb_drop_reason", "NO_SOCKET")
	want["event.location"] = symbols
	want["event.stacktrace"] = symbols
	s.expect(t, "PACKETLOSS", k.To.Inode, want)
	s.counted(t, k.To.Inode, map[string]int64{"inspector_pod_abnormalalloss": 1, "inspector_pod_totalloss": 1})
}

// checkNoSocket: the event shows the segment that provoked the reset.
func checkNoSocket(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.ConnectClosedPort(t, f)
	want := flow(f, "tcp", k.Destination, k.Source)
	want["event.reason"] = s.reason("sk_rst_reason", "NO_SOCKET")
	want["tcp.state"] = ""
	s.expect(t, "TCPRESET_NOSOCK", k.From.Inode, want)
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_tcpreset": 1})
}

// checkReceived returns the check of a reset that a stimulus makes and a socket in that state receives.
func checkReceived(stimulus func(*nettest.Pair, nettest.T, nettest.Family) nettest.Packet, event, state string) func(nettest.T, *selfTest, nettest.Family) {
	return func(t nettest.T, s *selfTest, f nettest.Family) {
		k := stimulus(s.pair, t, f)
		want := flow(f, "tcp", k.Destination, k.Source)
		want["tcp.state"] = state
		s.expect(t, event, k.To.Inode, want)
	}
}

func checkLinger(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.LingerZeroClose(t, f)
	s.expect(t, "TCPRESET_ACTIVE", k.From.Inode, flow(f, "tcp", k.Source, k.Destination))
}

func checkLateData(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.DataToOrphanedFinWait2(t, f)
	want := flow(f, "tcp", k.Destination, k.Source)
	want["tcp.state"] = "TCP_TIME_WAIT" // that of an orphan in FIN_WAIT2, too
	s.expect(t, "TCPRESET_PROCESS", k.From.Inode, want)
}

func checkTimeWaitSegment(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.AckInTimeWait(t, f)
	want := flow(f, "tcp", k.Destination, k.Source)
	want["tcp.state"] = "TCP_TIME_WAIT"
	want["tcp.flags"] = "ACK"
	s.expect(t, "TCP_TW_RCV", k.To.Inode, want)
	s.counted(t, k.To.Inode, map[string]int64{"inspector_pod_tcptwrcv": 1})
}

// checkSoftirq: soft interrupts are the node's, so that any will do.
func checkSoftirq(t nettest.T, s *selfTest, f nettest.Family) {
	s.pair.UDPToClosedPort(t, f, 100, false)
	for _, name := range []string{"NETSOFTIRQ_SCHED_SLOW", "NETSOFTIRQ_EXECUTE_SLOW"} {
		s.expect(t, name, 0, map[string]any{
			"softirq.vector": one("NET_RX", "NET_TX"),
			"event.duration": longer(sensitivity),
		})
	}
}

// pause is a latency that every threshold and the counters of 100 ms tell.
const pause = 150 * time.Millisecond

func checkLateRead(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.LateRead(t, f, pause)
	want := flow(f, "tcp", k.Destination, k.Source)
	want["tcp.state"] = "TCP_ESTABLISHED"
	want["event.duration"] = longer(pause)
	s.expect(t, "SOCKETLAT_READSLOW", k.To.Inode, want)
	s.counted(t, k.To.Inode, map[string]int64{"inspector_pod_socketlatencyread100ms": 1})
}

func checkClosedWindow(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.ClosedWindow(t, f, pause)
	want := flow(f, "tcp", k.Source, k.Destination)
	want["tcp.state"] = "TCP_ESTABLISHED"
	want["event.duration"] = longer(pause)
	s.expect(t, "SOCKETLAT_WRITESLOW", k.From.Inode, want)
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_socketlatencywrite100ms": 1})
}

func checkSlowTransmission(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.TokenBucket(t, f)
	want := flow(f, "tcp", k.Source, k.Destination)
	want["event.section"] = "QDISC"
	want["event.duration"] = longer(100 * time.Millisecond)
	s.expect(t, "KERNELLAT_TXSLOW", k.From.Inode, want)
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_kernellatency_txslow100ms": 1})
}

// checkReception: nothing within a private namespace holds up what arrives. That arrivals are measured shows in
// the node's histogram.
func checkReception(t nettest.T, s *selfTest, f nettest.Family) {
	const name = "inspector_node_kernellatency{rx}"
	before := s.sums(t, 0)[name]
	s.pair.LateRead(t, f, 0)
	s.counted(t, 0, map[string]int64{name: before + 1})
}

func checkSlowQueue(t nettest.T, s *selfTest, f nettest.Family) {
	k := s.pair.TokenBucket(t, f)
	want := flow(f, "tcp", k.Source, k.Destination)
	want["event.duration"] = longer(100 * time.Millisecond)
	s.expect(t, "NETIFTXLAT_QDISC", k.From.Inode, want)
	s.counted(t, k.From.Inode, map[string]int64{"inspector_pod_netiftxlat_qdiscslow100ms": 1})
}

// reason returns the name of a reason if this kernel has it, else what events have in its place.
func (s *selfTest) reason(enum, name string) string {
	if _, ok := s.agent.running.names.Value(enum, name); ok {
		return name
	}
	return ""
}

// flow is what all events of packets have.
func flow(f nettest.Family, transport string, source, destination netip.AddrPort) map[string]any {
	return map[string]any{
		"network.transport":   transport,
		"network.type":        f.String(),
		"source.address":      source.Addr().String(),
		"source.port":         int64(source.Port()),
		"destination.address": destination.Addr().String(),
		"destination.port":    int64(destination.Port()),
	}
}

// one accepts any of the values.
func one(values ...any) func(any) bool {
	return func(got any) bool { return slices.Contains(values, got) }
}

// longer accepts durations of at least d.
func longer(d time.Duration) func(any) bool {
	return func(got any) bool {
		ns, ok := got.(int64)
		return ok && ns >= d.Nanoseconds()
	}
}

// symbols accepts functions with offsets.
func symbols(got any) bool {
	symbol := regexp.MustCompile(`^[A-Za-z_][\w.]+\+0x[0-9A-F]+$`)
	text, _ := got.(string)
	for frame := range strings.FieldsSeq(text) {
		if !symbol.MatchString(frame) {
			return false
		}
	}
	return text != ""
}
