// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package scenarios

import (
	"context"
	"encoding/binary"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

// scenario is a trouble between two network namespaces, a client and a server.
type scenario struct {
	// name says what happens, short how its namespaces are called in documents: short-client and short-server.
	name, short string
	// begin prepares the trouble and returns what makes it happen, which is called once a round.
	begin func(t *testing.T, p *nettest.Pair) (happen func(t *testing.T))
	// client and server are the alerts that must fire for the two. Others must not, but for those of also.
	client, server, also []string
	// shows is what docs/troubleshooting.md tells of it, where it has `<!-- run: SHORT -->`.
	shows *exhibit
}

// exhibit is what a document shows of a scenario.
type exhibit struct {
	client  bool     // whether the metrics are the client's
	metrics []string // without `inspector_pod_`
	events  []string // one of each of these types
}

// scenarios are the troubles of pods. Those of nodes and of the agent are tests of their own.
func scenarios() []scenario {
	return []scenario{
		{
			name: "a DNS answer comes after the client gave up", short: "dns-late", begin: answerLate,
			client: []string{"PodDatagramsWithoutSocket"}, also: []string{"PodPacketLoss"},
			shows: &exhibit{true, []string{"udpoutdatagrams", "udpindatagrams", "udpnoports", "packetloss_by_reason"}, []string{"PACKETLOSS"}},
		},
		{
			name: "a DNS server reads too slowly", short: "dns-buffer", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.UDPRcvbufOverflow(t, f, 5) }),
			server: []string{"PodUDPReceiveBufferFull"}, also: []string{"PodPacketLoss"},
			shows: &exhibit{false, []string{"udpinerrors", "udprcvbuferrors", "packetloss_by_reason"}, []string{"PACKETLOSS"}},
		},
		{
			name: "nobody answers for the address of a DNS server", short: "dns-neighbor", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.UDPSendBufferFull(t, f) }),
			client: []string{"PodUDPSendFails"}, also: []string{"PodPacketLoss"},
			shows: &exhibit{true, []string{"udpsndbuferrors", "packetloss_by_reason"}, []string{"PACKETLOSS"}},
		},
		{
			name: "datagrams are damaged on the way", short: "dns-damaged", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.UDPBadChecksum(t, f) }),
			server: []string{"PodUDPChecksumErrors"}, also: []string{"PodPacketLoss"},
		},
		{
			name: "a server stops and its accept queue overflows", short: "accept-queue", begin: serverStops,
			client: []string{"PodConnectTimeouts"}, server: []string{"PodAcceptQueueOverflow", "PodAcceptQueueFull"}, also: []string{"PodPacketLoss", "PodRetransmissions", "PodTCPTimeouts"},
			shows: &exhibit{
				false, []string{"tcpextlistendrops", "tcpextlistenoverflows", "tcplistenacceptqueue", "tcplistenacceptqueuelimit", "tcppassiveopens"}, nil,
			},
		},
		{
			name: "a policy drops what goes to a server", short: "syn-dropped", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.RetransmitSYN(t, f) }),
			client: []string{"PodConnectTimeouts"}, also: []string{"PodPacketLoss", "PodRetransmissions", "PodTCPTimeouts"},
			shows: &exhibit{true, []string{"tcpactiveopens", "tcpexttcpsynretrans", "tcpretranssegs"}, nil},
		},
		{
			name: "packets for nobody arrive at an interface", short: "interface", begin: strangeFrames,
			server: []string{"PodInterfaceDrops"}, also: []string{"PodPacketLoss"},
			shows: &exhibit{false, []string{"netdevrxpackets", "netdevrxdropped", "packetloss_by_reason"}, nil},
		},
		{
			name: "segments fit no connection", short: "conntrack", begin: strays,
			server: []string{"PodConntrackInvalid"},
			shows:  &exhibit{false, []string{"conntrackinvalid", "conntrackdrop", "conntrackentries"}, nil},
		},
		{
			name: "packets get lost between client and server", short: "retransmissions", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.RetransmitUntilTimeout(t, f) }),
			client: []string{"PodRetransmissions", "PodTCPTimeouts"}, also: []string{"PodConnectionsAborted", "PodConnectionsReset", "PodConnectionsRefused", "PodPacketLoss"},
			shows: &exhibit{
				true, []string{"tcpretranssegs", "tcpexttcptimeouts", "tcpexttcpabortontimeout"}, nil,
			},
		},
		{
			name: "a packet filter refuses retransmissions", short: "filtered", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.RetransmitFails(t, f) }),
			client: []string{"PodRetransmissionFails"},
			also:   []string{"PodConnectionsReset", "PodConnectionsAborted", "PodConnectionsRefused", "PodRetransmissions", "PodTCPTimeouts", "PodPacketLoss"},
		},
		{
			name: "a reverse proxy is throttled by its CPU limit", short: "throttled", begin: proxyThrottled,
			server: []string{"PodNotReading"}, also: []string{"PodReadsLate", "PodWritesLate", "PodTCPTimeouts", "PodRetransmissions", "PodConnectionsReset", "PodConnectionsAborted", "PodNotReading", "PodAcknowledgmentsSkipped"},
			shows: &exhibit{
				false,
				[]string{"tcpsummarytcpestablishedconn", "tcpsummarytcprxqueue", "tcpsummarytcptxqueue", "tcpsummarytcptimewaitconn", "socketlatencyread100ms"},
				[]string{"SOCKETLAT_READSLOW"},
			},
		},
		{
			name: "a server closes connections without reading what came", short: "reset-close", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) {
				for range 3 {
					p.CloseWithUnreadData(t, f)
				}
			}),
			client: []string{"PodConnectionsReset"}, server: []string{"PodConnectionsReset", "PodConnectionsAborted"},
			shows: &exhibit{
				false,
				[]string{"tcpexttcpabortonclose", "tcpestabresets", "tcpoutrsts", "tcpreset"},
				[]string{"TCPRESET_ACTIVE", "TCP_RCV_RST_ESTAB"},
			},
		},
		{
			name: "nobody listens", short: "reset-refused", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) {
				for range 3 {
					p.ConnectClosedPort(t, f)
				}
			}),
			server: []string{"PodConnectionsRefused"},
			shows: &exhibit{
				false,
				[]string{"tcpoutrsts", "tcpreset"},
				[]string{"TCPRESET_NOSOCK", "TCP_RCV_RST_SYN"},
			},
		},
		{
			name: "segments are out of the window", short: "ack-skipped", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.SkippedACKs(t, f) }),
			server: []string{"PodAcknowledgmentsSkipped"}, also: []string{"PodAcknowledgmentsSkipped", "PodConnectionsReset", "PodConnectionsAborted", "PodConnectionsRefused", "PodConnectTimeouts", "PodAcceptQueueOverflow", "PodPacketLoss", "PodRetransmissions"},
			shows: &exhibit{
				false, []string{"tcpexttcpackskippedchallenge", "tcpexttcpackskippedseq", "tcpexttcpackskippedpaws", "tcpextpawsestabrejected"}, nil,
			},
		},
		{
			name: "a process reads late", short: "reads-late", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.LateRead(t, f, overThreshold) }),
			server: []string{"PodReadsLate"},
			shows:  &exhibit{false, []string{"socketlatencyread100ms"}, []string{"SOCKETLAT_READSLOW"}},
		},
		{
			name: "the peer does not read", short: "writes-late", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.ClosedWindow(t, f, overThreshold) }),
			client: []string{"PodWritesLate"}, also: []string{"PodReadsLate", "PodNotReading", "PodRetransmissions"},
			shows: &exhibit{true, []string{"socketlatencywrite100ms"}, []string{"SOCKETLAT_WRITESLOW"}},
		},
		{
			name: "a token bucket holds packets back", short: "slow-queue", begin: tokenBucket,
			client: []string{"PodPacketsSlowInKernel", "PodPacketsSlowInQueue"}, also: []string{"PodTCPTimeouts", "PodRetransmissions", "PodWritesLate", "PodReadsLate"},
			shows: &exhibit{
				true,
				[]string{"kernellatency_txslow100ms", "netiftxlat_qdiscslow100ms"},
				[]string{"KERNELLAT_TXSLOW", "NETIFTXLAT_QDISC"},
			},
		},
		{
			name: "a storm of datagrams for nobody", short: "storm", begin: happens(func(p *nettest.Pair, t *testing.T, f nettest.Family) { p.UDPToClosedPort(t, f, 50, false) }),
			server: []string{"PodDatagramsWithoutSocket", "PodPacketLoss"},
		},
		{
			name: "nothing is wrong", short: "healthy", begin: ordinary,
		},
	}
}

// overThreshold is what the counters named 100ms count for certain.
const overThreshold = 150 * time.Millisecond

// happens is the begin of a trouble that needs no preparation: it happens to each family.
func happens(trouble func(p *nettest.Pair, t *testing.T, f nettest.Family)) func(*testing.T, *nettest.Pair) func(*testing.T) {
	return func(_ *testing.T, p *nettest.Pair) func(*testing.T) {
		return func(t *testing.T) {
			for _, f := range nettest.Families() {
				trouble(p, t, f)
			}
		}
	}
}

// query asks for the IPv4 address of shop.example, with recursion.
const query = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04shop\x07example\x00\x00\x01\x00\x01"

// answerLate has a client of DNS give up before the server answers it.
func answerLate(t *testing.T, p *nettest.Pair) func(*testing.T) {
	servers := map[nettest.Family]*net.UDPConn{}
	for _, f := range nettest.Families() {
		at := netip.AddrPortFrom(p.B.Addresses[f], 53)
		var err error
		p.B.Do(t, func() { servers[f], err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
		require.NoError(t, err)
		t.Cleanup(func() { _ = servers[f].Close() })
	}
	return func(t *testing.T) {
		for _, server := range servers {
			client := p.A.DialUDP(t, netip.MustParseAddrPort(server.LocalAddr().String()))
			_, err := client.Write([]byte(query))
			require.NoError(t, err)
			require.NoError(t, client.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			_, err = client.Read(make([]byte, 512))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, client.Close())

			answer := make([]byte, 512)
			require.NoError(t, server.SetReadDeadline(time.Now().Add(nettest.Timeout)))
			n, to, err := server.ReadFromUDPAddrPort(answer)
			require.NoError(t, err)
			answer[2] |= 0x80 // a response
			_, err = server.WriteToUDPAddrPort(answer[:n], to)
			require.NoError(t, err)
		}
	}
}

// serverStops has a server stand still, as if for the collection of its garbage, while clients go on connecting.
func serverStops(t *testing.T, p *nettest.Pair) func(*testing.T) {
	p.B.Do(t, func() { require.NoError(t, os.WriteFile("/proc/sys/net/core/somaxconn", []byte("4"), 0o644)) })
	at := netip.AddrPortFrom(p.B.Addresses[nettest.IPv4], 8080)
	server := serve(t, p.B, p.A, at, "")
	server.Signal(t, syscall.SIGSTOP)
	return func(t *testing.T) {
		var all sync.WaitGroup
		for range 12 {
			all.Go(func() {
				// Long enough to send the SYN again, which the kernel does after a second.
				ctx, cancel := context.WithTimeout(t.Context(), 1200*time.Millisecond)
				defer cancel()
				if conn, err := p.A.DialContext(ctx, "tcp", at.String()); err == nil {
					t.Cleanup(func() { _ = conn.Close() })
				}
			})
		}
		all.Wait()
	}
}

// proxyThrottled gives a reverse proxy 2 % of a CPU while clients upload through it.
func proxyThrottled(t *testing.T, p *nettest.Pair) func(*testing.T) {
	backend := p.A.ListenTCP(t, nettest.IPv4)
	require.NoError(t, backend.SetDeadline(time.Time{}))
	go func() { _ = http.Serve(backend, http.HandlerFunc(sink)) }()
	at := netip.AddrPortFrom(p.B.Addresses[nettest.IPv4], 8080)
	proxy := serve(t, p.B, p.A, at, "http://"+backend.Addr().String())
	throttle(t, proxy.Cmd.Process.Pid, 2*time.Millisecond)
	for range 8 {
		upload(t, p.A, at)
	}
	return func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := healthCheck(ctx, p.A, at); err != nil {
			t.Logf("health check: %v", err)
		}
	}
}

// strangeFrames sends frames of a protocol that nobody has (a local experimental one) to the server's interface.
func strangeFrames(t *testing.T, p *nettest.Pair) func(*testing.T) {
	fd, index := -1, 0
	p.A.Do(t, func() {
		device, err := net.InterfaceByName(nettest.Device)
		require.NoError(t, err)
		index = device.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
	})
	t.Cleanup(func() { _ = unix.Close(fd) })
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, 0x88b5))
	to := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: index, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	return func(t *testing.T) {
		for range 20 {
			require.NoError(t, unix.Sendto(fd, make([]byte, 60), 0, to))
		}
	}
}

func strays(t *testing.T, p *nettest.Pair) func(*testing.T) {
	p.TrackConnections(t)
	return func(t *testing.T) {
		for _, f := range nettest.Families() {
			for range 10 {
				p.StraySegment(t, f)
			}
		}
	}
}

func tokenBucket(t *testing.T, p *nettest.Pair) func(*testing.T) {
	p.A.Shape(t)
	return func(t *testing.T) {
		for _, f := range nettest.Families() {
			client, server := p.ConnectTCP(t, f)
			p.A.Congest(t, p.B, f)
			_, err := client.Write(make([]byte, 100))
			require.NoError(t, err)
			nettest.Drain(t, server, 100)
		}
	}
}

// ordinary is traffic of a healthy service: requests over new connections and over old ones, and datagrams.
func ordinary(t *testing.T, p *nettest.Pair) func(*testing.T) {
	at := netip.AddrPortFrom(p.B.Addresses[nettest.IPv4], 8080)
	serve(t, p.B, p.A, at, "")
	return func(t *testing.T) {
		for range 10 {
			require.NoError(t, healthCheck(t.Context(), p.A, at))
		}
		for _, f := range nettest.Families() {
			p.UDPDelivered(t, f, 20)
		}
	}
}
