// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// TCPState is a state as the kernel numbers it (enum in include/net/tcp_states.h).
type TCPState uint8

// The states that the stimuli pass through. TCPNone says that there is no such socket.
const (
	TCPNone        TCPState = 0
	TCPEstablished TCPState = 1
	TCPFinWait2    TCPState = 5
	TCPTimeWait    TCPState = 6
	TCPClose       TCPState = 7
	TCPCloseWait   TCPState = 8
)

// Counters returns every counter of the namespace's /proc/net/snmp, netstat and snmp6, with keys such as "Tcp.OutRsts",
// "TcpExt.ListenDrops" and "Udp6NoPorts". Tcp.MaxConn, which is -1, wraps.
func (n *Namespace) Counters(t T) map[string]uint64 {
	t.Helper()
	counters := make(map[string]uint64, 512)
	n.Do(t, func() {
		for _, name := range []string{"snmp", "netstat"} {
			if err := parsePairedLines(readProc(t, name), counters); err != nil {
				t.Fatalf("parse /proc/net/%s: %v", name, err)
			}
		}
		for line := range strings.Lines(string(readProc(t, "snmp6"))) {
			key, text, _ := strings.Cut(strings.TrimSpace(line), " ")
			value, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
			if err != nil {
				t.Fatalf("parse /proc/net/snmp6: %v", err)
			}
			counters[key] = value
		}
	})
	return counters
}

// Counter returns one counter; one that the kernel does not have is 0.
func (n *Namespace) Counter(t T, key string) uint64 {
	t.Helper()
	return n.Counters(t)[key]
}

// WaitCounter waits until a counter is at least a value.
func (n *Namespace) WaitCounter(t T, key string, value uint64) {
	t.Helper()
	var last uint64
	Wait(t, fmt.Sprintf("%s of %s to reach %d", key, n.Name, value), func() bool {
		last = n.Counter(t, key)
		return last >= value
	})
}

// readProc reads a file of /proc/net in the thread's namespace.
func readProc(t T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/net/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// parsePairedLines adds the counters of snmp or netstat: a line of names, then a line of values, both led by the group.
func parsePairedLines(data []byte, counters map[string]uint64) error {
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	for ; len(lines) >= 2; lines = lines[2:] {
		names, values := strings.Fields(string(lines[0])), strings.Fields(string(lines[1]))
		if len(names) != len(values) || len(names) == 0 || names[0] != values[0] {
			return fmt.Errorf("lines do not match: %q and %q", lines[0], lines[1])
		}
		group := strings.TrimSuffix(names[0], ":")
		for i := 1; i < len(names); i++ {
			value, err := strconv.ParseInt(values[i], 10, 64)
			if err != nil {
				return fmt.Errorf("%s.%s: %w", group, names[i], err)
			}
			counters[group+"."+names[i]] = uint64(value)
		}
	}
	return nil
}

// TCPState returns the state of the namespace's TCP socket with these ends, TCPNone if there is none. A socket that
// waits in FIN_WAIT2 without an owner is TCPFinWait2, though the kernel keeps it as a TIME_WAIT socket.
func (n *Namespace) TCPState(t T, local, remote netip.AddrPort) TCPState {
	t.Helper()
	name := "tcp"
	if local.Addr().Is6() {
		name = "tcp6"
	}
	state := TCPNone
	n.Do(t, func() {
		for line := range strings.Lines(string(readProc(t, name))) {
			fields := strings.Fields(line)
			if len(fields) < 4 || procAddr(fields[1]) != local || procAddr(fields[2]) != remote {
				continue
			}
			value, err := strconv.ParseUint(fields[3], 16, 8)
			if err != nil {
				t.Fatalf("parse /proc/net/%s: %v", name, err)
			}
			state = TCPState(value)
		}
	})
	return state
}

// WaitTCPState waits until a socket is in a state.
func (n *Namespace) WaitTCPState(t T, local, remote netip.AddrPort, want TCPState) {
	t.Helper()
	Wait(t, fmt.Sprintf("socket %s-%s of %s to be in state %d", local, remote, n.Name, want), func() bool {
		return n.TCPState(t, local, remote) == want
	})
}

// procAddr parses an address of /proc/net/tcp: words of 32 bits in the machine's order, a colon, the port, all in
// hexadecimal. What is no address gives the zero value.
func procAddr(s string) netip.AddrPort {
	text, portText, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(text)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	port, err := strconv.ParseUint(portText, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, uint16(port))
}

// receiveMemory returns the bytes of memory that a socket's unread packets take.
func receiveMemory(fd int) (int, error) {
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO) // the first word, SK_MEMINFO_RMEM_ALLOC
}
