// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/bpf"
	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

const repo = "../../../.."

// A probe is found by its name: in its Go file, in its C file if it has a kernel object, and as a
// heading in metadata.yaml, which every metric and event of metadata.yaml stands below.
func TestProbeNames(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(repo, "receiver/netexporterreceiver/metadata.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  # (\w+): `).FindAllStringSubmatch(string(raw), -1) {
		headings[m[1]] = true
	}
	for _, d := range All() {
		if _, err := os.Stat(d.Name + ".go"); err != nil {
			t.Errorf("probe %s: %v", d.Name, err)
		}
		_, err := os.Stat(filepath.Join(repo, "bpf", d.Name+".bpf.c"))
		if (d.Spec != nil) != (err == nil) {
			t.Errorf("probe %s: has a kernel object: %t, C file: %v", d.Name, d.Spec != nil, err)
		}
		if !headings[d.Name] {
			t.Errorf("probe %s has no heading in metadata.yaml", d.Name)
		}
		delete(headings, d.Name)
	}
	for name := range headings {
		t.Errorf("metadata.yaml has a probe %s that does not exist", name)
	}
}

// Histograms are declared with their probes, where metadata.yaml cannot have them: what it would check is
// checked here, and docs/metrics.md lists them.
func TestHistogramNames(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(repo, "receiver/netexporterreceiver/metadata.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(repo, "docs/metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, d := range All() {
		for _, h := range d.Histograms {
			for _, name := range []string{h.Name, h.Documented} {
				if name != "" && (!regexp.MustCompile(`^inspector_(pod|node)_[a-z0-9_]+$`).MatchString(name) || strings.Contains(string(raw), "\n  "+name+":\n")) {
					t.Errorf("probe %s: name %q of a histogram is none, or is in metadata.yaml", d.Name, name)
				}
			}
			if !regexp.MustCompile(`^[A-Z].*\.$`).MatchString(h.Description) {
				t.Errorf("histogram %s: description %q is no sentence", h.Name, h.Description)
			}
			documented := ""
			if h.Documented != "" {
				documented = "`" + h.Documented + "` "
			}
			row := "\n| `" + h.Name + "` | " + documented + "| `" + d.Name + "` | "
			if !strings.Contains(string(doc), row) {
				t.Errorf("docs/metrics.md has no row %q", row)
			}
			rows++
		}
	}
	_, section, _ := strings.Cut(string(doc), "\n## Histograms\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if n := strings.Count(section, "\n| `"); n != rows {
		t.Errorf("docs/metrics.md lists %d histograms, the probes have %d", n, rows)
	}
}

// Whatever metadata.yaml promises of counters, a probe must record.
func TestEveryCounterHasAProbe(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(repo, "receiver/netexporterreceiver/metadata.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Metrics map[string]any `yaml:"metrics"`
	}
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	recorded := 0
	for _, d := range All() {
		for _, c := range d.Counters {
			recorded += len(c.Record)
		}
	}
	promised := 0
	for name := range doc.Metrics {
		// Those of maps and of the node have tests of their own.
		if !strings.Contains(name, "loss") && name != "inspector_pod_tcpreset" && name != "inspector_pod_tcptwrcv" && !strings.Contains(name, "softnet") && !strings.Contains(name, "slab") && !strings.HasSuffix(name, "100ms") {
			promised++
		}
	}
	if recorded != promised {
		t.Errorf("the probes record %d counters, metadata.yaml has %d", recorded, promised)
	}
}

// The running kernel must know the names: a typo would count a packet's own fault as a loss.
func TestBenignReasonsExist(t *testing.T) {
	k, err := kernel.Open("/", kernel.Query{Enums: []string{dropReasons}})
	if errors.Is(err, kernel.ErrNoBTF) {
		t.Skip("no BTF to look the names up in")
	}
	if err != nil {
		t.Fatal(err)
	}
	names := probe.NewNames(k, nil, All())
	if _, ok := names.Value(dropReasons, "NO_SOCKET"); !ok {
		t.Skip("this kernel is older than drop reasons (5.17)")
	}
	var unknown []string
	for _, reason := range defaultBenignReasons() {
		if _, ok := names.Value(dropReasons, reason); !ok {
			unknown = append(unknown, reason)
		}
	}
	// Reasons came one by one; 6.12 has all but those named here.
	if _, ok := names.Value(dropReasons, "TCP_RFC7323_PAWS_ACK"); ok && len(unknown) > 0 {
		t.Errorf("this kernel does not know the reasons %v", unknown)
	}
	if slices.Contains(defaultBenignReasons(), "NO_SOCKET") {
		t.Error("a datagram to a closed port would be no loss")
	}
}

func FuzzDecodePacketloss(f *testing.F) {
	record := make([]byte, unsafe.Sizeof(bpf.PacketlossEvent{}))
	f.Add(record)
	f.Add(record[:10])
	tooDeep := slices.Clone(record)
	binary.NativeEndian.PutUint32(tooDeep[unsafe.Offsetof(bpf.PacketlossEvent{}.Frames):], 1000)
	f.Add(tooDeep)
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodePacketloss(raw, &e) == nil && e.Frames > len(e.Stack) {
			t.Fatalf("a stack of %d frames", e.Frames)
		}
	})
}

func FuzzDecodeTcpreset(f *testing.F) {
	f.Add(make([]byte, unsafe.Sizeof(bpf.TcpresetEvent{})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if decodeTcpreset(raw, &e) != nil {
			return
		}
		if _, ok := resetClassOf(e.Type); !ok {
			t.Fatalf("decoded the unknown type %d", e.Type)
		}
	})
}

func FuzzDecodeTcptwrcv(f *testing.F) {
	f.Add(make([]byte, unsafe.Sizeof(bpf.TcptwrcvEvent{})))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e probe.Event
		if err := decodeTcptwrcv(raw, &e); (err == nil) != (len(raw) >= int(unsafe.Sizeof(bpf.TcptwrcvEvent{}))) {
			t.Fatalf("%d bytes: %v", len(raw), err)
		}
	})
}
