// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"os"
	"slices"
	"strings"
	"testing"
)

func TestParseSoftnet(t *testing.T) {
	for name, test := range map[string]struct {
		in   string
		want []Softnet
	}{
		"9 columns": {
			"000000ff 00000001 00000002 00000000 00000000 00000000 00000000 00000000 00000000\n",
			[]Softnet{{0, 0xff, 1, 2}},
		},
		"10 columns, with received_rps": {
			"00000010 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000007\n",
			[]Softnet{{0, 0x10, 0, 1}},
		},
		"11 columns, with flow_limit_count": {
			"00000010 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000007 00000000\n",
			[]Softnet{{0, 0x10, 0, 1}},
		},
		"13 columns, with the CPU, 1 being offline": {
			"00008e78 00000003 00000046 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n" +
				"01663fb2 00000000 0000aab2 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000002\n",
			[]Softnet{{0, 0x8e78, 3, 0x46}, {2, 0x1663fb2, 0, 0xaab2}},
		},
		"15 columns, with both queues": {
			"ffffffff 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n" +
				"ffffffff 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000\n",
			[]Softnet{{0, 0xffffffff, 1, 0}, {1, 0xffffffff, 1, 0}},
		},
		"three columns, no newline": {"a b c\nd e f", []Softnet{{0, 10, 11, 12}, {1, 13, 14, 15}}},
	} {
		if got, err := ParseSoftnet(strings.NewReader(test.in)); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
	for _, in := range []string{"", "\n", "1 2\n", "1 2 x\n", "1 2 -3\n", "1 2 3\n\n", "100000000 2 3\n", "1 2 3 4 5 6 7 8 9 a b c x\n"} {
		if got, err := ParseSoftnet(strings.NewReader(in)); err == nil || got != nil {
			t.Errorf("%q: got %+v, %v", in, got, err)
		}
	}
}

func TestParseSoftnetOfThisKernel(t *testing.T) {
	f, err := os.Open("/proc/net/softnet_stat")
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if got, err := ParseSoftnet(f); err != nil || got[0].Processed == 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzSoftnet(f *testing.F) {
	f.Add("00008e78 00000003 00000046 00000000\n")
	f.Add("1 2 3\n4 5\n")
	f.Fuzz(func(t *testing.T, in string) {
		if got, err := ParseSoftnet(strings.NewReader(in)); (err != nil) != (got == nil) {
			t.Fatalf("got %+v with %v", got, err)
		}
	})
}
