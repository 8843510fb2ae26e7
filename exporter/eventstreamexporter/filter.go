// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/eventline"
)

// filter is a Filter of the API made ready. The zero filter passes all.
type filter struct {
	events, pods, namespaces, netns set
	prefixes                        []netip.Prefix
	ports                           map[uint32]bool
}

type set map[string]bool

// has tells whether the set allows one of the values; the empty set allows all.
func (s set) has(values ...string) bool {
	for _, v := range values {
		if s[v] {
			return true
		}
	}
	return len(s) == 0
}

func setOf(values []string) set {
	s := make(set, len(values))
	for _, v := range values {
		s[v] = true
	}
	return s
}

// newFilter returns an error that names the value that it cannot take.
func newFilter(f *eventstreamv1.Filter) (*filter, error) {
	out := &filter{
		events: set{}, netns: set{},
		pods: setOf(f.GetPods()), namespaces: setOf(f.GetNamespaces()),
		ports: map[uint32]bool{},
	}
	aliases := eventline.Aliases()
	for _, name := range f.GetEvents() {
		name = strings.ToUpper(name)
		if alias, ok := aliases[name]; ok {
			name = alias
		}
		out.events[name] = true
	}
	for _, netns := range f.GetNetns() {
		digits := strings.TrimPrefix(netns, "ns")
		if _, err := strconv.ParseUint(digits, 10, 32); err != nil {
			return nil, fmt.Errorf("netns %q: must be an inode number, as 4026531993 or ns4026531993, or ns0 for the host", netns)
		}
		out.netns["ns"+digits] = true
	}
	for _, address := range f.GetAddresses() {
		prefix, err := parsePrefix(address)
		if err != nil {
			return nil, fmt.Errorf("address %q: must be an IP address or a prefix, as 10.0.0.1 or fd00::/64", address)
		}
		out.prefixes = append(out.prefixes, prefix)
	}
	for _, port := range f.GetPorts() {
		if port > 65535 {
			return nil, fmt.Errorf("port %d: must be at most 65535", port)
		}
		out.ports[port] = true
	}
	return out, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if strings.Contains(text, "/") {
		p, err := netip.ParsePrefix(text)
		return p.Masked(), err
	}
	a, err := netip.ParseAddr(text)
	return netip.PrefixFrom(a, a.BitLen()), err
}

// logs returns the LogsData of the events that pass.
func (f *filter) logs(events []*event) []byte {
	size := 0
	passing := events[:0]
	for _, e := range events {
		if f.passes(e) {
			passing, size = append(passing, e), size+len(e.logs)
		}
	}
	if size == 0 {
		return nil
	}
	// LogsData one after another are LogsData.
	logs := make([]byte, 0, size)
	for _, e := range passing {
		logs = append(logs, e.logs...)
	}
	return logs
}

// passes tells whether an event is wanted.
func (f *filter) passes(e *event) bool {
	return f.events.has(strings.ToUpper(e.name)) && f.passesWhere(e.where) && f.passesAddresses(e.addresses) && f.passesPorts(e.ports)
}

func (f *filter) passesWhere(w where) bool {
	return f.pods.has(w.pod) && f.namespaces.has(w.namespace) && f.netns.has(w.netns, "ns"+w.inode)
}

func (f *filter) passesAddresses(addresses [2]netip.Addr) bool {
	for _, p := range f.prefixes {
		if p.Contains(addresses[0].Unmap()) || p.Contains(addresses[1].Unmap()) {
			return true
		}
	}
	return len(f.prefixes) == 0
}

func (f *filter) passesPorts(ports [2]uint32) bool {
	return len(f.ports) == 0 || f.ports[ports[0]] || f.ports[ports[1]]
}
