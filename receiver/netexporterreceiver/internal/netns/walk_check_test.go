// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
)

// What the walk reads is what /proc says, and if it were not, the check would tell.
func TestWalkChecksItself(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: loads BPF programs")
	}
	k, err := kernel.Open("/", kernel.Query{Prefixes: MIBPrefixes()})
	if err != nil {
		t.Skipf("needs BTF: %v", err)
	}
	source, err := NewWalk(k, "/proc", []Counter{
		{MIB: "TCP_MIB_OUTSEGS", Proc: []string{"Tcp.OutSegs"}},
		{MIB: "TCP_MIB_CURRESTAB", Proc: []string{"Tcp.CurrEstab"}},
		{MIB: "LINUX_MIB_TCPPUREACKS", Proc: []string{"TcpExt.TCPPureAcks"}},
	})
	if err != nil {
		t.Skipf("this kernel cannot run the collection pass: %v", err)
	}
	w := source.(*walk)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, w.check())

	right := w.read[0]
	w.read[0] = func(r *bpf.NetnsNetnsRecord, t *bpf.NetnsTcpTotals) uint64 { return right(r, t) + 1<<40 }
	require.ErrorContains(t, w.check(), "TCP_MIB_OUTSEGS of the own network namespace is 10995")
	w.read[0] = right
	w.proc = newProc(t.TempDir(), nil)
	require.NoError(t, os.MkdirAll(w.proc.root+"/self/ns", 0o755))
	require.NoError(t, os.WriteFile(w.proc.root+"/self/ns/net", nil, 0o644))
	require.NoError(t, os.MkdirAll(w.proc.root+"/self/net", 0o755))
	for _, name := range []string{"snmp", "netstat"} {
		require.NoError(t, os.WriteFile(w.proc.root+"/self/net/"+name, nil, 0o644))
	}
	assert.ErrorContains(t, w.check(), "none is the own one")
}
