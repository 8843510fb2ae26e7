// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hold keeps a process in the namespace until the end of the test, and returns its id. It needs no program and does
// nothing: it is this program, traced by this process, so that it stops at the exec before its first instruction
// (ptrace(2), PTRACE_TRACEME). It ends with this process, too.
func (n *Namespace) Hold(t T) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL}
	var err error
	n.Do(t, func() { err = cmd.Start() })
	if errors.Is(err, unix.EPERM) {
		t.Skipf("may not trace a process of its own: %v", err)
	}
	if err != nil {
		t.Fatalf("start a process in %s: %v", n.Name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// HideName takes the namespace's name away, so that nothing leads into it, and returns what gives it
// back, which also the end of the test does.
func (n *Namespace) HideName(t T) (restore func()) {
	t.Helper()
	path := filepath.Join("/run/netns", n.Name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		t.Fatalf("unmount %s: %v", path, err)
	}
	restore = sync.OnceFunc(func() {
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", n.handle.Fd()), path, "", unix.MS_BIND, ""); err != nil {
			t.Fatalf("mount %s: %v", path, err)
		}
	})
	t.Cleanup(restore)
	return restore
}

// TrackConnections turns connection tracking on in B, until the end of the test.
func (p *Pair) TrackConnections(t T) {
	t.Helper()
	program, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs the nft program")
	}
	p.B.Do(t, func() {
		cmd := exec.Command(program, "-f", "-")
		cmd.Stdin = strings.NewReader("add table inet track\n" +
			"add chain inet track input { type filter hook input priority 0; }\n" +
			"add rule inet track input ct state new counter\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("track connections in %s: %v: %s", p.B.Name, err, out)
		}
	})
}
