// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"bytes"
	"debug/elf"
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
	// Proof is what shows that the file is of the running kernel, and not of another one: "own", "build_id",
	// "release" (within the file) or "functions" (those that the file describes are those that the kernel has).
	Proof string
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

// FindBTF returns the first of BTFCandidates that holds BTF of the running kernel. It returns ErrNoBTF, with the reason
// for each file that was there but did not serve, if none does.
func FindBTF(root, release string) (BTFSource, error) {
	return findBTF(BTFCandidates(root, release), runningKernel(release))
}

// identity is what tells a kernel from others.
type identity struct {
	release string
	buildID []byte // nil if it is unknown
	// functions returns the names of the kernel's functions, none if they are not shown.
	functions func() map[string]bool
}

func runningKernel(release string) identity {
	id := identity{release: release, functions: functionNames}
	if notes, err := os.ReadFile("/sys/kernel/notes"); err == nil {
		id.buildID = buildID(notes, binary.NativeEndian)
	}
	return id
}

// functionNames lists the functions of /proc/kallsyms, which shows names to everybody.
func functionNames() map[string]bool {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil
	}
	defer f.Close()
	names := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := bytes.Fields(lines.Bytes()); len(fields) == 3 { // those of modules have a fourth
			names[string(fields[2])] = true
		}
	}
	return names
}

func findBTF(candidates []string, running identity) (BTFSource, error) {
	var rejected []error
	for _, path := range candidates {
		if path == sysBTF {
			if _, err := os.Stat(path); err == nil {
				return BTFSource{Path: path, Own: true, Proof: "own"}, nil
			}
			continue
		}
		proof, err := running.prove(path)
		if err == nil {
			return BTFSource{Path: path, Proof: proof}, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			rejected = append(rejected, err)
		}
	}
	return BTFSource{}, errors.Join(append([]error{
		fmt.Errorf("%w (release %s): install a kernel built with CONFIG_DEBUG_INFO_BTF, or the debug symbols of this one "+
			"(Debian: linux-image-%[2]s-dbg, Ubuntu: linux-image-%[2]s-dbgsym, Fedora and RHEL: kernel-debuginfo), or put its uncompressed vmlinux or raw BTF at /boot/vmlinux-%[2]s",
			ErrNoBTF, running.release),
	}, rejected...)...)
}

// prove tells what shows that a file holds BTF of this kernel. One of another kernel would load just as
// well, and programs would read other fields than they mean.
func (id identity) prove(path string) (proof string, err error) {
	file, err := elf.Open(path)
	if isNoELF(err) {
		return id.proveFunctions(path)
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer file.Close()
	if file.Section(btfSection) == nil {
		return "", fmt.Errorf("%s has no BTF: its kernel was built without CONFIG_DEBUG_INFO_BTF", path)
	}
	for _, section := range file.Sections {
		if section.Type != elf.SHT_NOTE {
			continue
		}
		notes, err := section.Data()
		if err != nil {
			return "", fmt.Errorf("read %s: %w", path, err)
		}
		theirs := buildID(notes, file.ByteOrder)
		switch {
		case theirs == nil || id.buildID == nil:
		case bytes.Equal(theirs, id.buildID):
			return "build_id", nil
		default:
			return "", fmt.Errorf("%s is of another kernel: its build id is %x, that of the running one %x", path, theirs, id.buildID)
		}
	}
	return id.proveRelease(path, file)
}

// proveRelease looks for linux_banner of init/version.c, which names the release.
func (id identity) proveRelease(path string, file *elf.File) (proof string, err error) {
	const begin = "Linux version "
	if section := file.Section(".rodata"); section != nil {
		data, err := section.Data()
		if err != nil {
			return "", fmt.Errorf("read %s: %w", path, err)
		}
		if bytes.Contains(data, []byte(begin+id.release+" ")) {
			return "release", nil
		}
		if _, banner, found := bytes.Cut(data, []byte(begin)); found {
			release, _, _ := bytes.Cut(banner, []byte(" "))
			return "", fmt.Errorf("%s is of another kernel: its release is %.64s, that of the running one %s", path, release, id.release)
		}
	}
	return id.proveFunctions(path)
}

// foreign is one in how many functions the running kernel may lack that BTF of it describes: some are not in the table of symbols. Of
// another version's or configuration's it lacks more.
const foreign = 10

// proveFunctions compares functions, for files that do not say what they are of.
func (id identity) proveFunctions(path string) (proof string, err error) {
	spec, err := LoadBTF(path)
	if err != nil {
		return "", err
	}
	names := id.functions()
	if len(names) == 0 {
		return "", fmt.Errorf("%s does not say which kernel it is of, and /proc/kallsyms does not show the functions of the running one", path)
	}
	described, absent := 0, 0
	for typ, err := range spec.All() {
		if err != nil {
			return "", fmt.Errorf("read BTF of %s: %w", path, err)
		}
		if f, ok := typ.(*btf.Func); ok {
			described++
			if !names[f.Name] {
				absent++
			}
		}
	}
	if described == 0 || absent*foreign > described {
		return "", fmt.Errorf("%s is of another kernel: of %d functions that it describes the running one lacks %d", path, described, absent)
	}
	return "functions", nil
}

// buildID returns the build id among ELF notes, nil if there is none: three words, the sizes of name and description and
// a type, and those two, padded to words (elf(5)).
func buildID(notes []byte, order binary.ByteOrder) []byte {
	const words, gnuBuildID = 12, 3 // NT_GNU_BUILD_ID
	padded := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for len(notes) >= words {
		nameSize, size, kind := order.Uint32(notes), order.Uint32(notes[4:]), order.Uint32(notes[8:])
		end := words + padded(nameSize) + padded(size)
		if end > uint64(len(notes)) {
			return nil
		}
		if kind == gnuBuildID && string(notes[words:words+uint64(nameSize)]) == "GNU\x00" {
			begin := words + padded(nameSize)
			return notes[begin : begin+uint64(size)]
		}
		notes = notes[end:]
	}
	return nil
}

// btfSection is where an uncompressed kernel has its BTF.
const btfSection = ".BTF"

// LoadBTF reads BTF from a file of it alone, or from an uncompressed kernel. That may be stripped: btf.LoadSpec would want
// symbols.
func LoadBTF(path string) (*btf.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	file, err := elf.NewFile(f)
	switch {
	case isNoELF(err):
		var magic [2]byte
		if _, err := f.ReadAt(magic[:], 0); err != nil || !isRawBTF(magic) {
			return nil, fmt.Errorf("%s is neither raw BTF nor an uncompressed vmlinux", path)
		}
		spec, err := btf.LoadSpecFromReader(f)
		if err != nil {
			return nil, fmt.Errorf("read BTF of %s: %w", path, err)
		}
		return spec, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	section := file.Section(btfSection)
	if section == nil {
		return nil, fmt.Errorf("%s has no BTF", path)
	}
	raw, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read BTF of %s: %w", path, err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read BTF of %s: %w", path, err)
	}
	return spec, nil
}

// isNoELF tells whether an error says that a file is of another format, or too short for any.
func isNoELF(err error) bool {
	var format *elf.FormatError
	return errors.As(err, &format) || errors.Is(err, io.EOF)
}

// isRawBTF compares with BTF_MAGIC of include/uapi/linux/btf.h.
func isRawBTF(magic [2]byte) bool {
	return binary.NativeEndian.Uint16(magic[:]) == 0xeB9F
}

// load parses the BTF.
func (s BTFSource) load(cache *btf.Cache) (*btf.Spec, error) {
	if !s.Own {
		return LoadBTF(s.Path)
	}
	spec, err := cache.Kernel()
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.Path, err)
	}
	return spec, nil
}
