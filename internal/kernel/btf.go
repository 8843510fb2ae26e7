// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/btf"
)

// sysBTF is where a kernel with CONFIG_DEBUG_INFO_BTF shows its own BTF.
const sysBTF = "/sys/kernel/btf/vmlinux"

// BTFSource is a file that holds the BTF of the running kernel.
type BTFSource struct {
	// Path is the file, empty if none was found.
	Path string
	// Own is true if the kernel itself provides the BTF. Hooks that the kernel checks against
	// its BTF (fentry, tp_btf, iterators) need that; others work with a file from elsewhere too.
	Own bool
}

// BTFCandidates lists where the BTF of the given kernel release may be, below root, most trusted first.
func BTFCandidates(root, release string) []string {
	paths := []string{
		sysBTF,
		"/boot/vmlinux-" + release,
		"/boot/vmlinux-" + release + ".btf",
		"/boot/btf-" + release,
		"/boot/" + release + ".btf",
		"/boot/vmlinux",
		"/lib/modules/" + release + "/vmlinux-" + release,
		"/lib/modules/" + release + "/vmlinux",
		"/lib/modules/" + release + "/build/vmlinux",
		"/usr/lib/modules/" + release + "/kernel/vmlinux",
		"/usr/lib/debug/boot/vmlinux-" + release,
		"/usr/lib/debug/boot/vmlinux-" + release + ".debug",
		"/usr/lib/debug/lib/modules/" + release + "/vmlinux",
	}
	for i, p := range paths[1:] {
		paths[i+1] = filepath.Join(root, p)
	}
	return paths
}

// FindBTF returns the first of BTFCandidates that holds BTF. It returns ErrNoBTF, with the reason
// for each file that was there but did not serve, if none does.
func FindBTF(root, release string) (BTFSource, error) {
	return findBTF(BTFCandidates(root, release), release)
}

func findBTF(candidates []string, release string) (BTFSource, error) {
	var rejected []error
	for _, path := range candidates {
		err := hasBTF(path)
		if err == nil {
			return BTFSource{Path: path, Own: path == sysBTF}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			rejected = append(rejected, err)
		}
	}
	return BTFSource{}, errors.Join(append([]error{
		fmt.Errorf("%w (release %s): install a kernel built with CONFIG_DEBUG_INFO_BTF, or put its vmlinux or raw BTF at /boot/vmlinux-%s",
			ErrNoBTF, release, release),
	}, rejected...)...)
}

// hasBTF tells by its first bytes whether a file is raw BTF or an ELF file with a .BTF section.
func hasBTF(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var magic [4]byte
	if _, err := io.ReadFull(f, magic[:]); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if isRawBTF(magic) {
		return nil
	}
	if !bytes.Equal(magic[:], []byte("\x7fELF")) {
		return fmt.Errorf("%s is neither raw BTF nor an uncompressed vmlinux", path)
	}
	if _, err := btf.LoadSpec(path); err != nil {
		return fmt.Errorf("read BTF of %s: %w", path, err)
	}
	return nil
}

// isRawBTF compares with BTF_MAGIC of include/uapi/linux/btf.h.
func isRawBTF(magic [4]byte) bool {
	return binary.NativeEndian.Uint16(magic[:2]) == 0xeB9F
}

// load parses the BTF.
func (s BTFSource) load(cache *btf.Cache) (*btf.Spec, error) {
	load := func() (*btf.Spec, error) { return btf.LoadSpec(s.Path) }
	if s.Own {
		load = cache.Kernel
	}
	spec, err := load()
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.Path, err)
	}
	return spec, nil
}
