// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command btfcorpus writes the BTF of kernels, reduced to what the BPF objects relocate against, as
// DIR/NAME.btf.gz each, and what that is as DIR/needs.txt:
//
//	btfcorpus -o DIR NAME=VMLINUX...
package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/netexporter/netexporter/internal/kernel"
	"github.com/netexporter/netexporter/internal/kernel/corecheck"
)

func main() {
	objects := flag.String("objects", "bpf", "`directory` of the BPF objects")
	out := flag.String("o", "testdata/btf", "`directory` to write to")
	flag.Parse()
	if err := run(*objects, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "btfcorpus:", err)
		os.Exit(1)
	}
}

func run(dir, out string, kernels []string) error {
	if len(kernels) == 0 {
		return errors.New("no kernels: name them as NAME=VMLINUX")
	}
	objects, err := corecheck.Objects(dir)
	if err != nil {
		return err
	}
	needs, err := corecheck.Needs(objects)
	if err != nil {
		return err
	}
	for _, kernel := range kernels {
		name, file, ok := strings.Cut(kernel, "=")
		if !ok {
			return fmt.Errorf("%s: want NAME=VMLINUX", kernel)
		}
		if err := write(filepath.Join(out, name+".btf.gz"), file, needs); err != nil {
			return fmt.Errorf("%s: %w", kernel, err)
		}
	}
	var text bytes.Buffer
	for _, n := range needs {
		fmt.Fprintln(&text, n)
	}
	return os.WriteFile(filepath.Join(out, "needs.txt"), text.Bytes(), 0o644)
}

// write reduces the BTF of one kernel.
func write(out, vmlinux string, needs []corecheck.Need) error {
	spec, err := kernel.LoadBTF(vmlinux)
	if err != nil {
		return err
	}
	raw, err := corecheck.Minimize(spec, needs)
	if err != nil {
		return err
	}
	var zipped bytes.Buffer
	w, err := gzip.NewWriterLevel(&zipped, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, zipped.Bytes(), 0o644)
}
