// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package procfs

import (
	"maps"
	"strings"
	"testing"
	"testing/fstest"
)

const (
	snmp = `Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens
Tcp: 1 200 120000 -1 84
Udp: InDatagrams NoPorts
Udp: 107 18446744073709551615
`
	netstat = `TcpExt: SyncookiesSent ListenDrops
TcpExt: 0 7
`
	snmp6 = `Ip6InReceives                   	12
Udp6NoPorts                     	3
`
)

func procFS(snmp6 string) fstest.MapFS {
	fs := fstest.MapFS{
		"net/snmp":    {Data: []byte(snmp)},
		"net/netstat": {Data: []byte(netstat)},
	}
	if snmp6 != "" {
		fs["net/snmp6"] = &fstest.MapFile{Data: []byte(snmp6)}
	}
	return fs
}

func TestReadMIB(t *testing.T) {
	minusOne := ^uint64(0)
	want := MIB{
		"Tcp.RtoAlgorithm": 1, "Tcp.RtoMin": 200, "Tcp.RtoMax": 120000, "Tcp.MaxConn": minusOne, "Tcp.ActiveOpens": 84,
		"Udp.InDatagrams": 107, "Udp.NoPorts": minusOne,
		"TcpExt.SyncookiesSent": 0, "TcpExt.ListenDrops": 7,
	}
	got, err := ReadMIB(procFS(""))
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("without IPv6: got %v, %v", got, err)
	}
	want["Ip6InReceives"], want["Udp6NoPorts"] = 12, 3
	got, err = ReadMIB(procFS(snmp6))
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
}

func TestReadMIBNamesTheFile(t *testing.T) {
	fs := procFS(snmp6)
	fs["net/netstat"].Data = []byte("TcpExt: A B\nTcpExt: 1\n")
	if _, err := ReadMIB(fs); err == nil || !strings.Contains(err.Error(), "net/netstat") {
		t.Fatalf("got %v", err)
	}
	delete(fs, "net/snmp")
	if _, err := ReadMIB(fs); err == nil || !strings.Contains(err.Error(), "net/snmp") {
		t.Fatalf("got %v", err)
	}
}

func FuzzTable(f *testing.F) {
	f.Add(snmp)
	f.Add(netstat)
	f.Add("Tcp: A\nUdp: 1\n")
	f.Fuzz(func(t *testing.T, in string) {
		m := MIB{}
		if err := m.parseTable(strings.NewReader(in)); err != nil {
			return
		}
		for name := range m {
			if !strings.Contains(name, ".") {
				t.Fatalf("counter %q has no group", name)
			}
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add(snmp6)
	f.Add("A -1\n")
	f.Fuzz(func(_ *testing.T, in string) { _ = MIB{}.parseList(strings.NewReader(in)) })
}
