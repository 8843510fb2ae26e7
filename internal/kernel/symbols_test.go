// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

const kallsyms = `ffffffff81000000 T _stext
ffffffff81000000 T startup_64
ffffffff81001000 t tcp_v4_rcv
ffffffff81002000 D jiffies
ffffffffc0001000 t virtnet_poll	[virtio_net]
`

func TestSymbols(t *testing.T) {
	s, err := parseSymbols(strings.NewReader(kallsyms))
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[uint64]string{
		0xffffffff81000000: "_stext+0x0", // the first of two aliases
		0xffffffff81001000: "tcp_v4_rcv+0x0",
		0xffffffff810010ab: "tcp_v4_rcv+0xAB",
		0xffffffffc0001001: "virtnet_poll+0x1",
		0x1000:             "0x1000", // below the kernel
	} {
		if got := string(s.Append(nil, addr)); got != want {
			t.Errorf("symbol of %#x is %q, want %q", addr, got, want)
		}
	}
	if got := string((&Symbols{}).Append(nil, 0xffffffff81000000)); got != "0xFFFFFFFF81000000" {
		t.Errorf("without symbols the address prints as %q", got)
	}
}

func TestSpans(t *testing.T) {
	s, err := parseSymbols(strings.NewReader(`ffffffff81000000 T _stext
ffffffff81002000 t ip_rcv_core.isra.0
ffffffff81001000 t tcp_v4_rcv
ffffffff81003000 T nf_hook_slow
ffffffff81003000 T alias
ffffffff81003400 t ip_rcv_core.cold
ffffffff81003480 t tcp_v4_rcv_more
ffffffff81003500 T kfree_skb
ffffffffc0001000 t packet_rcv	[af_packet]
ffffffffc0200000 t nft_do_chain	[nf_tables]
`))
	if err != nil {
		t.Fatal(err)
	}
	got := s.Spans([]string{"nf_hook_slow", "ip_rcv_core", "tcp_v4_rcv", "packet_rcv", "no_such_function"})
	want := []Span{
		{"tcp_v4_rcv", 0xffffffff81001000, 0xffffffff81002000},
		{"ip_rcv_core", 0xffffffff81002000, 0xffffffff81003000},
		{"nf_hook_slow", 0xffffffff81003000, 0xffffffff81003400},
		{"ip_rcv_core", 0xffffffff81003400, 0xffffffff81003480},
		{"packet_rcv", 0xffffffffc0001000, 0xffffffffc0005000},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %x\nwant %x", got, want)
	}
}

func TestHiddenSymbols(t *testing.T) {
	_, err := parseSymbols(strings.NewReader("0000000000000000 T _stext\n0000000000000000 t tcp_v4_rcv\n"))
	if !errors.Is(err, ErrSymbolsHidden) {
		t.Fatalf("got %v, want ErrSymbolsHidden", err)
	}
}

func TestMalformedSymbols(t *testing.T) {
	for _, in := range []string{"nonsense\n", "xyz T name\n", "1\n"} {
		if _, err := parseSymbols(strings.NewReader(in)); err == nil {
			t.Errorf("no error for %q", in)
		}
	}
}

func FuzzSymbols(f *testing.F) {
	f.Add(kallsyms, uint64(0xffffffff81000010))
	f.Fuzz(func(t *testing.T, in string, addr uint64) {
		s, err := parseSymbols(strings.NewReader(in))
		if s == nil {
			t.Fatal("no symbols, not even none")
		}
		if got := s.Append(nil, addr); err == nil && len(got) == 0 {
			t.Fatal("an address without a text")
		}
	})
}

func BenchmarkAppendSymbol(b *testing.B) {
	s, err := parseSymbols(strings.NewReader(kallsyms))
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		buf = s.Append(buf[:0], 0xffffffff810010ab)
	}
}
