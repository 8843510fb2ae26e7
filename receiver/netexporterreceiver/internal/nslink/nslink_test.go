// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func target(n *nettest.Namespace) Target {
	return Target{Inode: uint32(n.Inode), Path: filepath.Join("/run/netns", n.Name)}
}

func targets(namespaces ...*nettest.Namespace) []Target {
	t := make([]Target, len(namespaces))
	for i, n := range namespaces {
		t[i] = target(n)
	}
	return t
}

func everything() Want { return Want{Links: true, Conntrack: true} }

// read reads targets, each of which must be visited in turn.
func read(t testing.TB, r *Reader, targets []Target, want Want) []Stats {
	t.Helper()
	var all []Stats
	err := r.Read(targets, want, func(i int, s Stats) {
		if i != len(all) {
			t.Errorf("target %d was visited after %d others", i, len(all))
		}
		all = append(all, s)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(targets) {
		t.Fatalf("read %d of %d namespaces", len(all), len(targets))
	}
	return all
}

func readOne(t testing.TB, n *nettest.Namespace, want Want) Stats {
	t.Helper()
	return read(t, new(Reader), targets(n), want)[0]
}

// devices sums up /proc/net/dev in the namespace, lo left out, and checks that lo has index 1.
func devices(t testing.TB, n *nettest.Namespace) LinkStats {
	t.Helper()
	l := LinkStats{Present: true}
	n.Do(t, func() {
		data, err := os.ReadFile("/proc/thread-self/net/dev")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			name, rest, ok := strings.Cut(line, ":")
			if !ok || strings.TrimSpace(name) == "lo" {
				continue
			}
			fields := strings.Fields(rest)
			for i, counter := range map[int]*uint64{
				0: &l.RxBytes, 1: &l.RxPackets, 2: &l.RxErrors, 3: &l.RxDropped,
				8: &l.TxBytes, 9: &l.TxPackets, 10: &l.TxErrors, 11: &l.TxDropped,
			} {
				value, err := strconv.ParseUint(fields[i], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				*counter += value
			}
		}
	})
	return l
}

// exchangeUDP sends datagrams of 1000 bytes to the peer, which answers none.
func exchangeUDP(t testing.TB, p *nettest.Pair, family nettest.Family, datagrams int) {
	t.Helper()
	server := p.B.ListenUDP(t, family)
	client := p.A.DialUDP(t, server.LocalAddr().(interface {
		AddrPort() (a addrPort)
	}).AddrPort())
	for range datagrams {
		if _, err := client.Write(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(make([]byte, 2000)); err != nil {
			t.Fatal(err)
		}
	}
}
