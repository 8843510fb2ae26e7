// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probes"
)

// Every hook that runs on this kernel sees what it must see.
func TestSelfTest(t *testing.T) {
	requireRoot(t)
	results, err := SelfTest(t.Context(), SelfTestOptions{RootPath: "/", Logger: zaptest.NewLogger(t)})
	require.NoError(t, err)
	tested := map[string]bool{}
	for _, r := range results {
		t.Logf("%+v", r)
		assert.NotEqual(t, VerdictFailed, r.Verdict)
		if r.Probe != "virtcmdlatency" { // nothing within a private namespace makes its commands
			assert.NotEqual(t, VerdictUntested, r.Verdict)
		}
		assert.Equal(t, r.Verdict == VerdictOK, r.Reason == "")
		tested[r.Probe] = true
	}
	for _, d := range probes.All() {
		assert.True(t, tested[d.Name], "no verdict on %s", d.Name)
	}
}

// misplace makes programs read sk_buff.network_header where sk_buff.protocol is.
func misplace(t *testing.T, spec *ebpf.CollectionSpec) {
	var skb *btf.Struct
	require.NoError(t, spec.Types.TypeByName("sk_buff", &skb))
	of := func(member string) string {
		i := slices.IndexFunc(skb.Members, func(m btf.Member) bool { return m.Name == member })
		require.GreaterOrEqual(t, i, 0, member)
		return fmt.Sprintf(`"sk_buff"[0:%d]`, i)
	}
	protocol, networkHeader := of("protocol"), of("network_header")
	for _, p := range spec.Programs {
		var wrong *asm.Instruction
		for i := range p.Instructions {
			if r := btf.CORERelocationMetadata(&p.Instructions[i]); r != nil && strings.Contains(r.String(), protocol) {
				wrong = &p.Instructions[i]
			}
		}
		require.NotNil(t, wrong, p.Name)
		for i := range p.Instructions {
			ins := &p.Instructions[i]
			if r := btf.CORERelocationMetadata(ins); r != nil && strings.Contains(r.String(), networkHeader) {
				ins.Constant = wrong.Constant
				*ins = btf.WithCORERelocationMetadata(*ins, btf.CORERelocationMetadata(wrong))
			}
		}
	}
}

// blind makes the programs of a probe do nothing.
func blind(d *probe.Definition) {
	load := d.Spec
	d.Spec = func() (*ebpf.CollectionSpec, error) {
		spec, err := load()
		for _, p := range spec.Programs {
			p.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol(p.Name), asm.Return()}
		}
		return spec, err
	}
}

// A probe that sees something else than what happened fails, with the reason; the others do not.
func TestSelfTestFindsWhatIsBroken(t *testing.T) {
	requireRoot(t)
	for name, test := range map[string]struct {
		change func(*probe.Definition)
		reason string
	}{
		"a field of the event": {
			func(d *probe.Definition) {
				decode := d.Decode
				d.Decode = func(raw []byte, e *probe.Event) error {
					err := decode(raw, e)
					e.Header.Flow.Sport++
					return err
				}
			},
			"source.port is ",
		},
		"a wrong offset": {
			func(d *probe.Definition) {
				load := d.Spec
				d.Spec = func() (*ebpf.CollectionSpec, error) {
					spec, err := load()
					misplace(t, spec)
					return spec, err
				}
			},
			"event PACKETLOSS",
		},
		"a program that sees nothing": {
			blind,
			"no event PACKETLOSS",
		},
	} {
		t.Run(name, func(t *testing.T) {
			results, err := SelfTest(t.Context(), SelfTestOptions{
				RootPath: "/", Probes: []string{"packetloss", "udp"}, Logger: zaptest.NewLogger(t),
				change: func(all []probe.Definition) {
					i := slices.IndexFunc(all, func(d probe.Definition) bool { return d.Name == "packetloss" })
					test.change(&all[i])
				},
			})
			require.NoError(t, err)
			require.Len(t, results, 2)
			assert.Equal(t, VerdictFailed, results[0].Verdict, "%+v", results[0])
			assert.Contains(t, results[0].Reason, test.reason)
			for _, f := range nettest.Families() {
				assert.Contains(t, results[0].Reason, f.String())
			}
			assert.NotEqual(t, VerdictFailed, results[1].Verdict, "%+v", results[1])
		})
	}
}

func TestSelfTestOfNoSuchProbe(t *testing.T) {
	_, err := SelfTest(t.Context(), SelfTestOptions{RootPath: "/", Probes: []string{"nonsense"}})
	assert.ErrorContains(t, err, `no probe "nonsense"`)
}
