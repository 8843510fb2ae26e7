// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
)

// ReadAddresses returns the addresses of the interfaces of a network namespace but for those of loopback and of links, sorted, from
// net/fib_trie and net/if_inet6 of a process in it. A file that is not there has none: the kernel may lack IPv6.
func ReadAddresses(process fs.FS) []netip.Addr {
	// The error is that the process has ended.
	trie, _ := fs.ReadFile(process, "net/fib_trie")
	inet6, _ := fs.ReadFile(process, "net/if_inet6")
	addresses := append(parseFIBTrie(trie), parseIfInet6(inet6)...)
	addresses = slices.DeleteFunc(addresses, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}

// parseFIBTrie returns the addresses of which the routing table says "/32 host LOCAL" in the line below them
// (fib_trie_seq_show() of net/ipv4/fib_trie.c). They come once for each of the tables main and local.
func parseFIBTrie(data []byte) []netip.Addr {
	var (
		addresses []netip.Addr
		leaf      netip.Addr
	)
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if text, isLeaf := strings.CutPrefix(line, "|-- "); isLeaf {
			leaf, _ = netip.ParseAddr(text)
			continue
		}
		if strings.HasPrefix(line, "/32 host LOCAL") && leaf.IsValid() {
			addresses = append(addresses, leaf)
		}
	}
	return addresses
}

// parseIfInet6 returns the first column (if6_seq_show() of net/ipv6/addrconf.c).
func parseIfInet6(data []byte) []netip.Addr {
	var addresses []netip.Addr
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		digits, _, _ := strings.Cut(lines.Text(), " ")
		raw, err := hex.DecodeString(digits)
		if err != nil {
			continue
		}
		if a, ok := netip.AddrFromSlice(raw); ok {
			addresses = append(addresses, a)
		}
	}
	return addresses
}
