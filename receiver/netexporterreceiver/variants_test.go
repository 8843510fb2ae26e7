// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
)

// variantOf returns the variant that runs a hook.
func (r *rig) variantOf(t testing.TB, probe, hook string) string {
	t.Helper()
	for id := range r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant") {
		if variant, ok := strings.CutPrefix(id, "/"+probe+"/"+hook+"/"); ok {
			return variant
		}
	}
	require.Fail(t, "no hook "+hook+" of probe "+probe)
	return ""
}

// startBy starts a receiver in which hooks of a probe run by one kind of programs and no other.
func startBy(t testing.TB, kind, probe string, hooks ...string) *rig {
	t.Helper()
	r, err := startAs(t, nil, with(probe, func(spec *ebpf.CollectionSpec) {
		for name, p := range spec.Programs {
			hook, _, _ := strings.Cut(name, "__")
			if slices.Contains(hooks, hook) && !strings.HasPrefix(p.SectionName, kind+"/") {
				delete(spec.Programs, name)
			}
		}
	}))
	require.NoError(t, err)
	for _, hook := range hooks {
		require.Equal(t, kind, r.variantOf(t, probe, hook), "hook %s of probe %s", hook, probe)
	}
	return r
}

// requireKind skips the test on kernels that lack a kind of programs, or what those here need.
func requireKind(t *testing.T, kind string) {
	t.Helper()
	requireRoot(t)
	switch kind {
	case "raw_tp":
		if !hasResetReasons() {
			t.Skip("before 6.11 the tracepoints do not tell enough")
		}
	case "kprobe":
		if _, err := os.Stat("/sys/bus/event_source/devices/kprobe"); err != nil {
			t.Skip("this kernel has no kprobes")
		}
	case "fentry": // the most harmless one
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: "bpf_fentry_test1", License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		})
		if err != nil {
			t.Skip("this kernel takes no program at the entry of a function, whichever: " + err.Error())
		}
		require.NoError(t, program.Close())
	}
}

// Whatever kind of programs runs a hook, the events are the same.
func TestEveryVariant(t *testing.T) {
	for _, kind := range []string{"fentry", "kprobe", "raw_tp"} {
		t.Run(kind, func(t *testing.T) {
			requireKind(t, kind)
			t.Run("tcpreset", func(t *testing.T) {
				testEveryEvent(t, onePerTest(t, func(t testing.TB) *rig { return startBy(t, kind, "tcpreset", "sent", "silent") }))
			})
			t.Run("tcptwrcv", func(t *testing.T) {
				testTimeWaitEvents(t, onePerTest(t, func(t testing.TB) *rig { return startBy(t, kind, "tcptwrcv", "processed") }))
			})
		})
	}
}
