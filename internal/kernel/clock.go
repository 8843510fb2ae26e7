// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Clock turns the kernel's CLOCK_MONOTONIC stamps into wall-clock time. It holds for as long as
// nobody sets the wall clock: take a new one for each batch of events.
type Clock struct {
	now    time.Time
	offset int64 // nanoseconds
}

// NewClock reads both clocks now.
func NewClock() Clock {
	var mono unix.Timespec
	// CLOCK_MONOTONIC cannot fail on Linux: the clock is always there and the pointer is valid.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	now := time.Now()
	return Clock{now, now.UnixNano() - mono.Nano()}
}

// Time returns the wall-clock time of a stamp of bpf_ktime_get_ns().
func (c Clock) Time(ktimeNs uint64) time.Time { return time.Unix(0, c.offset+int64(ktimeNs)) }

// BootTime returns when the kernel's counters began: the start of the kernel.
func BootTime() (time.Time, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Now().Add(-time.Duration(boot.Nano())), nil
}

// Now returns the wall-clock time when the clock was taken.
func (c Clock) Now() time.Time { return c.now }

// Tick returns the period of the kernel's tick, by which jiffies count.
func Tick() (time.Duration, error) {
	var tick unix.Timespec
	// The coarse clocks move with the tick; CONFIG_HZ cannot be read everywhere.
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the resolution of CLOCK_MONOTONIC_COARSE: %w", err)
	}
	return time.Duration(tick.Nano()), nil
}
