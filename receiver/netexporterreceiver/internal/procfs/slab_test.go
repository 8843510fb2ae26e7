// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	slabinfo = `slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
MPTCP                 32     32   1984   16    8 : tunables    0    0    0 : slabdata      2      2      0
tw_sock_TCP           64     64    256   16    1 : tunables    0    0    0 : slabdata      4      4      0
TCPv6                 26     39   2496   13    8 : tunables    0    0    0 : slabdata      3      3      0
TCP                   17     39   2368   13    8 : tunables    0    0    0 : slabdata      3      3      0
`
	// The allocator SLAB with its statistics.
	slabinfoStatistics = `slabinfo - version: 2.1 (statistics)
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail> : globalstat <listallocs> <maxobjs> <grown> <reaped> <error> <maxfreeable> <nodeallocs> <remotefrees> <alienoverflow> : cpustat <allochit> <allocmiss> <freehit> <freemiss>
request_sock_TCPv6      0      0    304   13    1 : tunables   54   27    8 : slabdata      0      0      0 : globalstat 0 0 0 0 0 0 0 0 0 : cpustat 0 0 0 0
TCP                    21     24   1920    2    1 : tunables   24   12    8 : slabdata     12     12      0 : globalstat 48 24 12 0 0 0 0 0 0 : cpustat 35 14 28 0
`
	slabinfoOld = `slabinfo - version: 2.0
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <batchcount> <limit> <sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
TCP 8 10 1600 5 2 : tunables 24 12 0 : slabdata 2 2 0
`
)

func TestParseSlab(t *testing.T) {
	for name, test := range map[string]struct {
		in, cache string
		want      Slab
	}{
		"SLUB":                 {slabinfo, "TCP", Slab{17, 39, 2368, 13, 8}},
		"IPv6":                 {slabinfo, "TCPv6", Slab{26, 39, 2496, 13, 8}},
		"SLAB with statistics": {slabinfoStatistics, "TCP", Slab{21, 24, 1920, 2, 1}},
		"version 2.0":          {slabinfoOld, "TCP", Slab{8, 10, 1600, 5, 2}},
	} {
		if got, err := ParseSlab(strings.NewReader(test.in), test.cache); err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	for _, cache := range []string{"UDP", "TC", "sock_TCP", ""} {
		if got, err := ParseSlab(strings.NewReader(slabinfo), cache); !errors.Is(err, fs.ErrNotExist) || got != (Slab{}) {
			t.Errorf("cache %q: got %+v, %v", cache, got, err)
		}
	}
	for _, in := range []string{
		"", "slabinfo - version: 3.0\nTCP 1 2 3 4 5\n", "TCP 1 2 3 4 5\n",
		"slabinfo - version: 2.1\nTCP 1 2 3 4\n", "slabinfo - version: 2.1\nTCP 1 2 3 4 x\n",
	} {
		if got, err := ParseSlab(strings.NewReader(in), "TCP"); err == nil || errors.Is(err, fs.ErrNotExist) || got != (Slab{}) {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
}

func slabFS() fstest.MapFS {
	dir := "kernel/slab/TCP/"
	return fstest.MapFS{
		dir + "objects":       {Data: []byte("35 N0=20 N1=15\n")},
		dir + "total_objects": {Data: []byte("39 N0=20 N1=19\n")},
		dir + "object_size":   {Data: []byte("2304\n")},
		dir + "slab_size":     {Data: []byte("2368\n")},
		dir + "objs_per_slab": {Data: []byte("13\n")},
		dir + "order":         {Data: []byte("3\n")},
	}
}

func TestReadSlab(t *testing.T) {
	listed, directory := Slab{17, 39, 2368, 13, 8}, Slab{35, 39, 2368, 13, 8}
	withCache := fstest.MapFS{"slabinfo": {Data: []byte(slabinfo)}}
	merged := fstest.MapFS{"slabinfo": {Data: []byte(strings.ReplaceAll(slabinfo, "\nTCP ", "\n:A-0002368 "))}}
	for name, test := range map[string]struct {
		proc, sys fs.FS
		want      Slab
	}{
		"slabinfo":            {withCache, slabFS(), listed},
		"slabinfo alone":      {withCache, fstest.MapFS{}, listed},
		"no slabinfo":         {fstest.MapFS{}, slabFS(), directory},
		"merged with another": {merged, slabFS(), directory},
	} {
		if got, err := ReadSlab(test.proc, test.sys, "TCP"); err != nil || got != test.want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	if _, err := ReadSlab(merged, fstest.MapFS{}, "TCP"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such cache: got %v", err)
	}
	for file, content := range map[string]string{"objects": "", "order": "64", "slab_size": "large"} {
		sys := slabFS()
		sys["kernel/slab/TCP/"+file].Data = []byte(content)
		if _, err := ReadSlab(fstest.MapFS{}, sys, "TCP"); err == nil || !strings.Contains(err.Error(), "TCP/"+file) {
			t.Errorf("%s is %q: got %v", file, content, err)
		}
	}
}

// TestSlabOfThisKernel compares what does not change of both sources.
func TestSlabOfThisKernel(t *testing.T) {
	listed, err := readSlabinfo(os.DirFS("/proc"), "TCP")
	if err != nil {
		t.Skip(err)
	}
	directory, err := readSlabDir(os.DirFS("/sys"), "TCP")
	if err != nil {
		t.Skip(err)
	}
	for _, s := range []*Slab{&listed, &directory} {
		if s.ActiveObjects > s.Objects {
			t.Errorf("got %+v", *s)
		}
		s.ActiveObjects, s.Objects = 0, 0
	}
	if listed != directory || listed.ObjectSize == 0 || listed.ObjectsPerSlab == 0 || listed.PagesPerSlab == 0 {
		t.Errorf("slabinfo tells %+v, sysfs %+v", listed, directory)
	}
}

func FuzzSlab(f *testing.F) {
	f.Add(slabinfo, "TCP")
	f.Add(slabinfoStatistics, "request_sock_TCPv6")
	f.Fuzz(func(t *testing.T, in, name string) {
		if got, err := ParseSlab(strings.NewReader(in), name); err != nil && got != (Slab{}) {
			t.Fatalf("got %+v with %v", got, err)
		}
	})
}
