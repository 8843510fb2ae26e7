// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/monotonic"
)

// header appends a header of a message with that many bytes of body.
func header(b []byte, kind, flags uint16, sequence uint32, body []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	b = binary.NativeEndian.AppendUint32(b, 4711)
	return append(b, body...)
}

func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofNlAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, -len(value)&3)...)
}

// link is an interface whose counters are first, first+1 and so on, in the kernel's order.
func link(index uint32, first uint64, counters int) []byte {
	body := binary.NativeEndian.AppendUint32(make([]byte, 4), index)
	body = binary.NativeEndian.AppendUint32(body, 1)
	var value []byte
	for i := range counters {
		value = binary.NativeEndian.AppendUint64(value, first+uint64(i))
	}
	body = attr(body, 4, []byte("xyz")) // another attribute, with padding
	return header(nil, newStats, unix.NLM_F_MULTI, 1, attr(body, unix.IFLA_STATS_LINK_64, value))
}

func conntrack(kind uint16, sequence uint32, attributes map[uint16]uint32) []byte {
	return conntrackOf(0, kind, sequence, attributes)
}

func conntrackOf(cpu byte, kind uint16, sequence uint32, attributes map[uint16]uint32) []byte {
	body := []byte{0, 0, 0, cpu}
	for k, v := range attributes {
		body = attr(body, k, binary.BigEndian.AppendUint32(nil, v))
	}
	return header(nil, kind, 0, sequence, body)
}

func status(kind uint16, sequence uint32, errno unix.Errno) []byte {
	return header(nil, kind, unix.NLM_F_MULTI, sequence, binary.NativeEndian.AppendUint32(nil, uint32(-int32(errno))))
}

func join(messages ...[]byte) []byte { return bytes.Join(messages, nil) }

func TestCollectLinks(t *testing.T) {
	// 23 counters before 4.6, 24 until 5.18, 25 since.
	datagram := join(link(1, 1000, 25), link(2, 10, 25), link(3, 100, 24), link(9, 0, 23))
	var s Stats
	if done, err := s.collect(datagram, 1); done || err != nil {
		t.Fatalf("got %t, %v before the end", done, err)
	}
	if done, err := s.collect(status(unix.NLMSG_DONE, 1, 0), 1); !done || err != nil {
		t.Fatalf("got %t, %v at the end", done, err)
	}
	want := LinkStats{
		RxPackets: 110, TxPackets: 113, RxBytes: 116, TxBytes: 119,
		RxErrors: 122, TxErrors: 125, RxDropped: 128 + 155, TxDropped: 131,
	}
	if s.Links != want {
		t.Errorf("got %+v, want %+v", s.Links, want)
	}
}

func TestCollectConntrack(t *testing.T) {
	old := map[uint16]uint32{} // until 5.9: every attribute up to CTA_STATS_SEARCH_RESTART
	for k := range uint16(13) {
		old[k+1] = 100 * uint32(k+1)
	}
	current := map[uint16]uint32{2: 1, 4: 2, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 1<<32 - 1, 14: 9, 15: 10}
	datagram := join(
		conntrack(conntrackStatsGlobal, 1, map[uint16]uint32{1: 17, 2: 262144}),
		conntrack(conntrackStatsCPU, 2, old), conntrack(conntrackStatsCPU, 2, current),
		status(unix.NLMSG_DONE, 2, 0))
	var s Stats
	if done, err := s.collect(datagram, 2); !done || err != nil {
		t.Fatalf("got %t, %v", done, err)
	}
	want := ConntrackStats{
		Entries: 17, Found: 201, Invalid: 402, Ignore: 500, Insert: 803, InsertFailed: 904,
		Drop: 1005, EarlyDrop: 1106, SearchRestart: 1300 + 1<<32 - 1,
	}
	if s.Conntrack != want {
		t.Errorf("got %+v, want %+v", s.Conntrack, want)
	}
}

func tcpSocket(state byte, rx, tx uint32) []byte {
	body := make([]byte, socketLen)
	body[1] = state
	binary.NativeEndian.PutUint32(body[56:], rx)
	binary.NativeEndian.PutUint32(body[60:], tx)
	return header(nil, socketByFamily, unix.NLM_F_MULTI, 1, attr(body, 8, []byte{0}))
}

func TestCollectSockets(t *testing.T) {
	datagram := join(
		tcpSocket(stateEstablished, 1, 2), tcpSocket(stateEstablished, 10, 20), tcpSocket(stateTimeWait, 0, 0),
		tcpSocket(stateListen, 0, 0), tcpSocket(stateListen, 5, 5), tcpSocket(stateListen, 129, 128),
		tcpSocket(8, 7, 7), // CLOSE_WAIT, not asked for
		status(unix.NLMSG_DONE, 1, 0))
	var s Stats
	if done, err := s.collect(datagram, 1); !done || err != nil {
		t.Fatalf("got %t, %v", done, err)
	}
	want := SocketStats{
		Established: 2, TimeWait: 1, RxQueue: 11, TxQueue: 22,
		Listening: 3, AcceptQueue: 134, AcceptLimit: 133, AcceptFull: 1,
	}
	if s.Sockets != want {
		t.Errorf("got %+v, want %+v", s.Sockets, want)
	}
}

// The counters of a CPU wrap, and the sums go on.
func TestCollectConntrackThatWraps(t *testing.T) {
	var counted monotonic.PerCPU
	for i, pass := range []struct{ cpu0, cpu1 uint32 }{{1<<32 - 1, 5}, {3, 6}, {3, 6}} {
		s := Stats{Conntrack: ConntrackStats{counted: &counted}}
		for range 2 { // an answer that was interrupted is asked for again
			if _, err := s.collect(join(
				conntrackOf(0, conntrackStatsCPU, 2, map[uint16]uint32{ctaStatsDrop: pass.cpu0}),
				conntrackOf(1, conntrackStatsCPU, 2, map[uint16]uint32{ctaStatsDrop: pass.cpu1, ctaStatsFound: 7})), 2); err != nil {
				t.Fatal(err)
			}
		}
		want := uint64(pass.cpu0) + uint64(pass.cpu1)
		if i > 0 {
			want += 1 << 32
		}
		if s.Conntrack.Drop != want || s.Conntrack.Found != 7 {
			t.Errorf("pass %d: got %+v, want %d dropped", i, s.Conntrack, want)
		}
	}
}

func TestCollectTellsErrors(t *testing.T) {
	whole := link(2, 1, 25)
	for name, test := range map[string]struct {
		datagram []byte
		want     error
	}{
		"interrupted":              {header(nil, newStats, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, 1, link(2, 1, 25)[16:]), errInterrupted},
		"interrupted at the end":   {header(nil, unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 1, make([]byte, 4)), errInterrupted},
		"refused":                  {status(unix.NLMSG_ERROR, 1, unix.EPERM), unix.EPERM},
		"failed at the end":        {status(unix.NLMSG_DONE, 1, unix.EMSGSIZE), unix.EMSGSIZE},
		"overrun":                  {status(unix.NLMSG_OVERRUN, 1, 0), unix.ENOBUFS},
		"half a header":            {whole[:10], errMalformed},
		"half a message":           {whole[:len(whole)-8], errMalformed},
		"too few counters":         {link(2, 1, 15), errMalformed},
		"no status":                {header(nil, unix.NLMSG_ERROR, 0, 1, nil), errMalformed},
		"no interface":             {header(nil, newStats, 0, 1, make([]byte, 8)), errMalformed},
		"half an attribute":        {header(nil, newStats, 0, 1, append(make([]byte, statsHeaderLen), 4, 0)), errMalformed},
		"an attribute too long":    {header(nil, conntrackStatsCPU, 0, 1, append(make([]byte, nfgenHeaderLen), 9, 0, 2, 0)), errMalformed},
		"half a socket":            {header(nil, socketByFamily, 0, 1, make([]byte, socketLen-1)), errMalformed},
		"no conntrack header":      {header(nil, conntrackStatsGlobal, 0, 1, nil), errMalformed},
		"conntrack of other width": {header(nil, conntrackStatsGlobal, 0, 1, attr(make([]byte, nfgenHeaderLen), 1, make([]byte, 8))), errMalformed},
	} {
		var s Stats
		if done, err := s.collect(test.datagram, 1); done || !errors.Is(err, test.want) {
			t.Errorf("%s: got %t, %v, want %v", name, done, err, test.want)
		}
	}
}

func TestCollectPassesOver(t *testing.T) {
	var s Stats
	// A success told by NLMSG_ERROR, the end of an earlier dump, something of another type.
	datagram := join(status(unix.NLMSG_ERROR, 1, 0), status(unix.NLMSG_DONE, 1, 0), header(nil, unix.NLMSG_NOOP, 0, 0, nil))
	if done, err := s.collect(datagram, 2); done || err != nil {
		t.Errorf("got %t, %v", done, err)
	}
	if s != (Stats{}) {
		t.Errorf("got %+v", s)
	}
}

func TestRequests(t *testing.T) {
	for name, test := range map[string]struct {
		request func([]byte) ([]byte, uint32)
		kinds   []uint16
	}{
		"links":     {linksRequest, []uint16{unix.RTM_GETSTATS}},
		"conntrack": {conntrackRequest, []uint16{conntrackStatsGlobal, conntrackStatsCPU}},
		"sockets":   {socketsRequest6, []uint16{socketByFamily}},
	} {
		rest, last := test.request(nil)
		for i, kind := range test.kinds {
			m, next, err := cutMessage(rest)
			if err != nil || m.kind != kind || m.sequence != uint32(i+1) {
				t.Errorf("%s: message %d: got %+v, %v", name, i, m, err)
			}
			rest = next
		}
		if len(rest) != 0 || last != uint32(len(test.kinds)) {
			t.Errorf("%s: %d bytes are left, the last number is %d", name, len(rest), last)
		}
	}
}

func FuzzCollect(f *testing.F) {
	f.Add(join(link(1, 1000, 25), link(2, 10, 24), status(unix.NLMSG_DONE, 1, 0)), uint32(1))
	f.Add(join(conntrack(conntrackStatsGlobal, 1, map[uint16]uint32{1: 17}),
		conntrack(conntrackStatsCPU, 2, map[uint16]uint32{2: 1, 8: 1}), status(unix.NLMSG_DONE, 2, 0)), uint32(2))
	f.Add(join(tcpSocket(stateListen, 1, 2), status(unix.NLMSG_DONE, 1, 0)), uint32(1))
	f.Add(status(unix.NLMSG_ERROR, 1, unix.EPERM), uint32(1))
	f.Fuzz(func(t *testing.T, datagram []byte, last uint32) {
		var s Stats
		if done, err := s.collect(bytes.Clone(datagram), last); done && (err != nil || len(datagram) < unix.NLMSG_HDRLEN) {
			t.Fatalf("done with %d bytes and error %v", len(datagram), err)
		}
	})
}

func FuzzAttributes(f *testing.F) {
	f.Add(attr(attr(nil, 1, []byte("abc")), 1<<15|2, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			a, rest, err := cutAttribute(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) || len(a.value) > len(b) || a.kind > attributeTypeMask {
				t.Fatalf("attribute %d with %d bytes of %d, %d are left", a.kind, len(a.value), len(b), len(rest))
			}
			b = rest
		}
	})
}
