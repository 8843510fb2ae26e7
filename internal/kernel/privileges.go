// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// MissingPrivilegesError lists capabilities that this process needs and does not have.
type MissingPrivilegesError struct{ Missing []string }

func (e *MissingPrivilegesError) Error() string {
	return fmt.Sprintf("missing capabilities: %s; run as root, or grant them (for example with setcap, AmbientCapabilities= of systemd, or securityContext.capabilities.add of Kubernetes)",
		strings.Join(e.Missing, ", "))
}

// CheckPrivileges returns a *MissingPrivilegesError if this process may not load and read tracing
// programs (CAP_BPF and CAP_PERFMON, Linux 5.8, or CAP_SYS_ADMIN), or may not see which network
// namespace other processes are in (CAP_SYS_PTRACE).
func CheckPrivileges() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("read own capabilities: %w", err)
	}
	effective := uint64(data[0].Effective) | uint64(data[1].Effective)<<32
	if missing := missingPrivileges(effective); len(missing) > 0 {
		return &MissingPrivilegesError{missing}
	}
	return nil
}

// missingPrivileges names what a set of effective capabilities, as a bit mask, lacks.
func missingPrivileges(effective uint64) []string {
	has := func(capability int) bool { return effective&(1<<capability) != 0 }
	var missing []string
	if !has(unix.CAP_SYS_ADMIN) {
		if !has(unix.CAP_BPF) {
			missing = append(missing, "CAP_BPF")
		}
		if !has(unix.CAP_PERFMON) {
			missing = append(missing, "CAP_PERFMON")
		}
	}
	if !has(unix.CAP_SYS_PTRACE) {
		missing = append(missing, "CAP_SYS_PTRACE")
	}
	return missing
}
