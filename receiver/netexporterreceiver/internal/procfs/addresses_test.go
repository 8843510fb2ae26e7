// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
)

const fibTrie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
     |-- 192.0.2.2
        /32 host LOCAL
`

const ifInet6 = `fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000002 04 40 00 82     eth0
`

func TestReadAddresses(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for name, tt := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"both":           {fstest.MapFS{"net/fib_trie": file(fibTrie), "net/if_inet6": file(ifInet6)}, "[192.0.2.2 2001:db8::2]"},
		"without IPv6":   {fstest.MapFS{"net/fib_trie": file(fibTrie)}, "[192.0.2.2]"},
		"without IPv4":   {fstest.MapFS{"net/if_inet6": file(ifInet6)}, "[2001:db8::2]"},
		"gone":           {fstest.MapFS{}, "[]"},
		"something else": {fstest.MapFS{"net/fib_trie": file("|-- x\n/32 host LOCAL\n"), "net/if_inet6": file("zz\n\n20\n")}, "[]"},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, tt.want, fmt.Sprint(ReadAddresses(tt.files))) })
	}
}
