// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// rawBTF returns BTF that describes functions.
func rawBTF(t *testing.T, functions ...string) []byte {
	t.Helper()
	b, err := btf.NewBuilder(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range functions {
		if _, err := b.Add(&btf.Func{Name: name, Type: &btf.FuncProto{Return: &btf.Void{}}}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// section is one of an ELF file.
type section struct {
	name string
	kind elf.SectionType
	data []byte
}

// vmlinux returns an ELF file as a stripped kernel is: sections, no symbols.
func vmlinux(sections ...section) []byte {
	const headerSize, sectionSize = 64, 64
	names := []byte{0}
	sections = append([]section{{}}, sections...)
	sections = append(sections, section{name: ".shstrtab", kind: elf.SHT_STRTAB})
	var at []uint32
	for _, s := range sections {
		at = append(at, uint32(len(names)))
		names = append(append(names, s.name...), 0)
	}
	sections[len(sections)-1].data = names
	var body, table []byte
	for i, s := range sections {
		var h []byte
		h = binary.LittleEndian.AppendUint32(h, at[i])
		h = binary.LittleEndian.AppendUint32(h, uint32(s.kind))
		for _, v := range []uint64{0, 0, uint64(headerSize + len(body)), uint64(len(s.data))} {
			h = binary.LittleEndian.AppendUint64(h, v)
		}
		table = append(table, append(h, make([]byte, sectionSize-len(h))...)...)
		body = append(body, s.data...)
	}
	h := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	for _, v := range []uint16{uint16(elf.ET_EXEC), uint16(elf.EM_X86_64)} {
		h = binary.LittleEndian.AppendUint16(h, v)
	}
	h = binary.LittleEndian.AppendUint32(h, 1)
	for _, v := range []uint64{0, 0, uint64(headerSize + len(body))} {
		h = binary.LittleEndian.AppendUint64(h, v)
	}
	h = binary.LittleEndian.AppendUint32(h, 0)
	for _, v := range []uint16{headerSize, 0, 0, sectionSize, uint16(len(sections)), uint16(len(sections) - 1)} {
		h = binary.LittleEndian.AppendUint16(h, v)
	}
	return append(append(h, body...), table...)
}

// note returns the ELF note of a build id, behind another note.
func note(id string) []byte {
	var b []byte
	for _, n := range []struct {
		kind       uint32
		name, desc string
	}{{0x100, "Linux\x00\x00\x00", "salt"}, {3, "GNU\x00", id}} {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(strings.TrimRight(n.name, "\x00"))+1))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(n.desc)))
		b = binary.LittleEndian.AppendUint32(b, n.kind)
		b = append(append(b, n.name...), n.desc...)
	}
	return b
}

const release = "6.1.0-13-amd64"

// running is a kernel with three functions.
func running() identity {
	return identity{release: release, buildID: []byte("1234"), functions: func() map[string]bool {
		return map[string]bool{"tcp_v4_rcv": true, "udp_rcv": true, "ip_rcv": true}
	}}
}

func TestFindBTF(t *testing.T) {
	if _, err := os.Stat(sysBTF); err == nil {
		got, err := FindBTF(t.TempDir(), "1.2.3")
		if err != nil || !got.Own || got.Path != sysBTF {
			t.Fatalf("got %+v, %v, want the kernel's own", got, err)
		}
	}
}

func TestFindBTFAmong(t *testing.T) {
	raw := rawBTF(t, "tcp_v4_rcv", "udp_rcv")
	for _, file := range []string{
		"/boot/vmlinux-" + release,
		"/boot/" + release + ".btf",
		"/boot/vmlinux",
		"/usr/lib/debug/lib/modules/" + release + "/vmlinux",
		"/usr/lib/debug/boot/vmlinux-" + release,
	} {
		t.Run(file, func(t *testing.T) {
			root := t.TempDir()
			candidates := BTFCandidates(root, release)[1:] // not the running kernel's own
			want := filepath.Join(root, file)
			if !slices.Contains(candidates, want) {
				t.Fatalf("%s is not looked at", file)
			}
			write(t, want, raw)
			got, err := findBTF(candidates, running())
			if err != nil || got.Path != want || got.Own {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}

// A file of another kernel is passed over, whatever its name says, and the next one that fits is taken.
func TestProofOfBTF(t *testing.T) {
	right, wrong := rawBTF(t, "tcp_v4_rcv", "udp_rcv", "ip_rcv"), rawBTF(t, "tcp_v4_rcv", "udp_rcv", "ip_forward")
	banner := func(release string) section {
		return section{".rodata", elf.SHT_PROGBITS, []byte("x\x00Linux version " + release + " (gcc)\x00y")}
	}
	for _, tt := range []struct {
		name    string
		content []byte
		proof   string
		refusal string
	}{
		{"build id", vmlinux(section{".notes", elf.SHT_NOTE, note("1234")}, section{".BTF", elf.SHT_PROGBITS, wrong}), "build_id", ""},
		{"other build id", vmlinux(section{".notes", elf.SHT_NOTE, note("5678")}, banner(release), section{".BTF", elf.SHT_PROGBITS, right}), "", "its build id is 35363738, that of the running one 31323334"},
		{"release", vmlinux(banner(release), section{".BTF", elf.SHT_PROGBITS, wrong}), "release", ""},
		{"other release", vmlinux(banner(release+"-rt"), section{".BTF", elf.SHT_PROGBITS, right}), "", "its release is 6.1.0-13-amd64-rt, that of the running one 6.1.0-13-amd64"},
		{"nameless", vmlinux(section{".BTF", elf.SHT_PROGBITS, right}), "functions", ""},
		{"nameless, of another", vmlinux(section{".BTF", elf.SHT_PROGBITS, wrong}), "", "of 3 functions that it describes the running one lacks 1"},
		{"raw", right, "functions", ""},
		{"raw, of another", wrong, "", "of 3 functions that it describes the running one lacks 1"},
		{"raw, of nothing", rawBTF(t), "", "of 0 functions"},
		{"no BTF", vmlinux(banner(release)), "", "CONFIG_DEBUG_INFO_BTF"},
		{"compressed", []byte("\x1f\x8b\x08\x00 a compressed kernel"), "", "neither raw BTF nor an uncompressed vmlinux"},
		{"cut off", right[:len(right)-4], "", "read BTF of"},
		{"ELF cut off", vmlinux(banner(release))[:40], "", "neither raw BTF nor an uncompressed vmlinux"},
		{"empty", nil, "", "neither raw BTF nor an uncompressed vmlinux"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			candidates := BTFCandidates(root, release)[1:]
			first, last := candidates[0], candidates[len(candidates)-1]
			write(t, first, tt.content)
			got, err := findBTF(candidates, running())
			if tt.refusal == "" {
				if err != nil || got.Path != first || got.Proof != tt.proof {
					t.Fatalf("got %+v, %v", got, err)
				}
				if _, err := LoadBTF(first); err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, ErrNoBTF) {
				t.Fatalf("got %+v, %v, want ErrNoBTF", got, err)
			}
			for _, want := range []string{first, tt.refusal} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not tell %q: %v", want, err)
				}
			}
			write(t, last, right)
			if got, err := findBTF(candidates, running()); err != nil || got.Path != last {
				t.Fatalf("got %+v, %v, want the next file", got, err)
			}
		})
	}
}

func TestNoBTF(t *testing.T) {
	_, err := findBTF(BTFCandidates(t.TempDir(), release)[1:], running())
	if !errors.Is(err, ErrNoBTF) {
		t.Fatalf("got %v, want ErrNoBTF", err)
	}
	for _, want := range []string{release, "CONFIG_DEBUG_INFO_BTF", "linux-image-" + release + "-dbg", "/boot/vmlinux-" + release} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not tell %q: %v", want, err)
		}
	}
}

// The kernel proves to be itself by its functions, too, and what it says of itself is found.
func TestOwnBTFIsProven(t *testing.T) {
	if _, err := os.Stat(sysBTF); err != nil {
		t.Skipf("the kernel has no BTF of its own: %v", err)
	}
	proof, err := runningKernel("1.2.3").prove(sysBTF)
	if err != nil || proof != "functions" {
		t.Fatalf("got %q, %v", proof, err)
	}
	if _, err := os.Stat("/sys/kernel/notes"); err == nil && len(runningKernel("1.2.3").buildID) == 0 {
		t.Error("no build id in /sys/kernel/notes")
	}
}

func FuzzBuildID(f *testing.F) {
	f.Add(note("1234"))
	f.Fuzz(func(_ *testing.T, notes []byte) { buildID(notes, binary.LittleEndian) })
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}
