// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"path/filepath"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/nslink"
)

// errNoDiag is why sockets cannot be read within namespaces.
var errNoDiag = errors.New("the kernel has no tcp_diag")

// ReadSockets makes the inventory fill in the counters of sockets within each namespace, for a
// source that does not serve them. It fails where the kernel does not let it. It costs as much as
// all the rest many times over: the kernel looks at the sockets of the whole host for each namespace.
func (v *Inventory) ReadSockets(r *nslink.Reader) error {
	own := filepath.Join(v.procRoot, "self", "ns", "net")
	inode, err := newProc(v.procRoot, nil).inode(filepath.Join("self", "ns", "net"))
	if err != nil {
		return err
	}
	err = errNoDiag
	if readErr := r.Read([]nslink.Target{{Inode: inode, Path: own}}, nslink.Want{Sockets: true}, func(_ int, s nslink.Stats) {
		if s.Sockets.Present {
			err = nil
		}
	}); readErr != nil {
		return readErr
	}
	if err == nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.diag = r
	}
	return err
}

// readSockets fills in the counters of sockets of the namespaces that something leads into.
func (v *Inventory) readSockets(rows []Row) error {
	if v.diag == nil {
		return nil
	}
	pids := make(map[ID]int, len(v.entries))
	for _, t := range v.tasks {
		if pids[t.NetNS] == 0 {
			pids[t.NetNS] = t.TGID
		}
	}
	var p netlinkPass
	for i := range rows {
		row := &rows[i]
		row.NoSockets = true
		p.add(v.target(row.ID, pids[row.ID]), row)
	}
	return v.diag.Read(p.targets, nslink.Want{Sockets: true}, func(i int, s nslink.Stats) {
		p.rows[i].NoSockets = !s.Sockets.Present
		v.fillSockets(p.rows[i], &s.Sockets)
	})
}

func (v *Inventory) fillSockets(row *Row, s *nslink.SocketStats) {
	for i, c := range v.counters {
		switch {
		case c.Sockets != nil:
			row.Values[i] = c.Sockets(&Sockets{s.Established, s.TimeWait, s.TxQueue, s.RxQueue})
		case c.Listeners != nil:
			row.Values[i] = c.Listeners(&Listeners{s.Listening, s.AcceptQueue, s.AcceptLimit, s.AcceptFull})
		}
	}
}
