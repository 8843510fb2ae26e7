// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
)

// ErrSymbolsHidden says that /proc/kallsyms shows no addresses to this process.
var ErrSymbolsHidden = errors.New("kernel symbols are hidden: CAP_SYSLOG is missing or kernel.kptr_restrict is 2")

// Symbols maps addresses of the kernel's text to function names. The zero value knows none and
// prints addresses.
type Symbols struct {
	// Parallel arrays, sorted by address; the name of i is names[start[i]:start[i+1]].
	addrs []uint64
	start []uint32
	names []byte
}

// LoadSymbols reads /proc/kallsyms.
func LoadSymbols() (*Symbols, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return &Symbols{}, fmt.Errorf("load kernel symbols: %w", err)
	}
	defer f.Close()
	return parseSymbols(f)
}

// parseSymbols reads lines "address type name [module]", kernel/kallsyms.c s_show(), of which it
// keeps the text symbols.
func parseSymbols(r io.Reader) (*Symbols, error) {
	type symbol struct {
		addr       uint64
		start, end uint32
	}
	var (
		symbols []symbol
		names   []byte
		hidden  bool
	)
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		addrField, rest, ok := bytes.Cut(scanner.Bytes(), []byte(" "))
		if !ok || len(rest) < 3 || rest[1] != ' ' {
			return &Symbols{}, fmt.Errorf("parse kernel symbols: malformed line %q", scanner.Bytes())
		}
		switch rest[0] {
		case 't', 'T', 'w', 'W':
		default:
			continue
		}
		addr, err := strconv.ParseUint(string(addrField), 16, 64)
		if err != nil {
			return &Symbols{}, fmt.Errorf("parse kernel symbols: %w", err)
		}
		if addr == 0 {
			hidden = true
			continue
		}
		name := rest[2:]
		if i := bytes.IndexAny(name, "\t "); i >= 0 {
			name = name[:i]
		}
		start := uint32(len(names))
		names = append(names, name...)
		symbols = append(symbols, symbol{addr, start, uint32(len(names))})
	}
	if err := scanner.Err(); err != nil {
		return &Symbols{}, fmt.Errorf("parse kernel symbols: %w", err)
	}
	if hidden && len(symbols) == 0 {
		return &Symbols{}, ErrSymbolsHidden
	}
	// Aliases share an address; the stable sort keeps the first, which the linker lists first.
	slices.SortStableFunc(symbols, func(a, b symbol) int {
		switch {
		case a.addr < b.addr:
			return -1
		case a.addr > b.addr:
			return 1
		}
		return 0
	})
	s := &Symbols{
		addrs: make([]uint64, len(symbols)),
		start: make([]uint32, len(symbols)+1),
		names: make([]byte, 0, len(names)),
	}
	for i, sym := range symbols {
		s.addrs[i] = sym.addr
		s.start[i] = uint32(len(s.names))
		s.names = append(s.names, names[sym.start:sym.end]...)
	}
	s.start[len(symbols)] = uint32(len(s.names))
	return s, nil
}

// Span is a function's place in memory. Start is its first address, End the first behind it.
type Span struct {
	Name       string
	Start, End uint64
}

// maxSpan is more than any function takes. Where the symbols of a module end, one that is loaded later
// may follow.
const maxSpan = 1 << 14

// Spans returns the places of functions by their names, in the order of their addresses. A function
// of which the compiler made several or another (name.part.0, name.isra.0) has as many.
func (s *Symbols) Spans(names []string) []Span {
	var spans []Span
	for i, addr := range s.addrs {
		name, _, _ := bytes.Cut(s.names[s.start[i]:s.start[i+1]], []byte("."))
		at := slices.IndexFunc(names, func(n string) bool { return n == string(name) })
		if at < 0 {
			continue
		}
		next := i + 1
		for next < len(s.addrs) && s.addrs[next] == addr {
			next++
		}
		if next < len(s.addrs) {
			spans = append(spans, Span{names[at], addr, min(s.addrs[next], addr+maxSpan)})
		}
	}
	return spans
}

// Append appends "function+0xOFFSET" for an address in the kernel's text, or the address itself if
// it lies in no known function.
func (s *Symbols) Append(dst []byte, addr uint64) []byte {
	i, exact := slices.BinarySearch(s.addrs, addr)
	if !exact {
		i--
	}
	if i < 0 {
		return appendHex(dst, addr)
	}
	for i > 0 && s.addrs[i-1] == s.addrs[i] {
		i--
	}
	dst = append(dst, s.names[s.start[i]:s.start[i+1]]...)
	dst = append(dst, '+')
	return appendHex(dst, addr-s.addrs[i])
}

func appendHex(dst []byte, v uint64) []byte {
	dst = append(dst, "0x"...)
	from := len(dst)
	dst = strconv.AppendUint(dst, v, 16)
	copy(dst[from:], bytes.ToUpper(dst[from:]))
	return dst
}
