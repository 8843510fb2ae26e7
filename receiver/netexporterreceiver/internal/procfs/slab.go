// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
)

// Slab is a cache of the kernel's allocator.
type Slab struct {
	// ActiveObjects counts objects in use. Free ones in slabs that a CPU holds count as active.
	ActiveObjects uint64
	Objects       uint64
	// ObjectSize is in bytes, the allocator's own data included.
	ObjectSize     uint64
	ObjectsPerSlab uint64
	PagesPerSlab   uint64
}

// ReadSlab reads a cache from slabinfo below proc or, where that cannot be read or does not list
// the cache, from kernel/slab below sys, which knows caches that were merged by all their names.
// Both are root's alone. The error wraps fs.ErrNotExist if there is no such cache in either.
func ReadSlab(proc, sys fs.FS, name string) (Slab, error) {
	s, err := readSlabinfo(proc, name)
	if err == nil {
		return s, nil
	}
	s, sysErr := readSlabDir(sys, name)
	if sysErr == nil {
		return s, nil
	}
	return Slab{}, errors.Join(err, sysErr)
}

func readSlabinfo(proc fs.FS, name string) (Slab, error) {
	f, err := proc.Open("slabinfo")
	if err != nil {
		return Slab{}, err
	}
	defer f.Close()
	return ParseSlab(f, name)
}

// ParseSlab finds a cache in slabinfo, version 2 (cache_show() of mm/slab_common.c):
// "TCP 39 78 2368 13 8 : tunables ...". The error wraps fs.ErrNotExist if it is not listed.
func ParseSlab(r io.Reader, name string) (Slab, error) {
	scanner := bufio.NewScanner(r)
	if !scanner.Scan() || !bytes.HasPrefix(scanner.Bytes(), []byte("slabinfo - version: 2.")) {
		return Slab{}, errors.Join(fmt.Errorf("parse slabinfo: unknown version %q", scanner.Bytes()), scanner.Err())
	}
	for scanner.Scan() {
		rest, ok := bytes.CutPrefix(scanner.Bytes(), []byte(name))
		if !ok || len(rest) == 0 || rest[0] != ' ' {
			continue
		}
		var s Slab
		fields := bytes.Fields(rest)
		for i, value := range [...]*uint64{&s.ActiveObjects, &s.Objects, &s.ObjectSize, &s.ObjectsPerSlab, &s.PagesPerSlab} {
			if i >= len(fields) {
				return Slab{}, fmt.Errorf("parse slabinfo: malformed line %q", scanner.Bytes())
			}
			var err error
			if *value, err = strconv.ParseUint(string(fields[i]), 10, 64); err != nil {
				return Slab{}, fmt.Errorf("parse slabinfo: %s: %w", name, err)
			}
		}
		return s, nil
	}
	if err := scanner.Err(); err != nil {
		return Slab{}, fmt.Errorf("parse slabinfo: %w", err)
	}
	return Slab{}, fmt.Errorf("parse slabinfo: cache %s: %w", name, fs.ErrNotExist)
}

// maxOrder is beyond any order of pages that a slab can have.
const maxOrder = 32

// readSlabDir reads the files of SLUB for a cache (Documentation/ABI/testing/sysfs-kernel-slab).
// A file holds a number, which those that count objects tell for each memory node once more:
// "39 N0=20 N1=19".
func readSlabDir(sys fs.FS, name string) (Slab, error) {
	dir := path.Join("kernel/slab", name)
	var s Slab
	var order uint64
	for _, file := range []struct {
		name  string
		value *uint64
	}{
		{"objects", &s.ActiveObjects},
		{"total_objects", &s.Objects},
		{"slab_size", &s.ObjectSize},
		{"objs_per_slab", &s.ObjectsPerSlab},
		{"order", &order},
	} {
		data, err := fs.ReadFile(sys, path.Join(dir, file.name))
		if err != nil {
			return Slab{}, err
		}
		first, _, _ := bytes.Cut(bytes.TrimSpace(data), []byte(" "))
		if *file.value, err = strconv.ParseUint(string(first), 10, 64); err != nil {
			return Slab{}, fmt.Errorf("parse %s/%s: %w", dir, file.name, err)
		}
	}
	if order >= maxOrder {
		return Slab{}, fmt.Errorf("parse %s/order: %d is out of range", dir, order)
	}
	s.PagesPerSlab = 1 << order
	return s, nil
}
