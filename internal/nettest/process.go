// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"os/exec"
	"syscall"
	"testing"
)

// Hold runs a process that does nothing in the namespace until the end of the test, and returns its
// id. It ends with this process, too.
func (n *Namespace) Hold(t testing.TB) int {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	n.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatalf("start a process in %s: %v", n.Name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}
