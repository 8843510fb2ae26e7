// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rawBTF is the header of an empty BTF blob, struct btf_header of include/uapi/linux/btf.h.
func rawBTF() []byte {
	b := binary.NativeEndian.AppendUint16(nil, 0xeB9F)
	b = append(b, 1, 0)
	for _, v := range []uint32{24, 0, 0, 0, 1} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return append(b, 0)
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
	const release = "6.1.0-13-amd64"
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
			write(t, want, rawBTF())
			got, err := findBTF(candidates, release)
			if err != nil || got.Path != want || got.Own {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}

func TestNoBTF(t *testing.T) {
	root := t.TempDir()
	const release = "6.1.0-13-amd64"
	compressed := filepath.Join(root, "boot", "vmlinux-"+release)
	write(t, compressed, []byte("\x1f\x8b\x08\x00 a compressed kernel"))
	_, err := findBTF(BTFCandidates(root, release)[1:], release)
	if !errors.Is(err, ErrNoBTF) {
		t.Fatalf("got %v, want ErrNoBTF", err)
	}
	for _, want := range []string{release, "CONFIG_DEBUG_INFO_BTF", compressed} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not tell %q: %v", want, err)
		}
	}
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
