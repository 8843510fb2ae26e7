// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock turns the kernel's CLOCK_MONOTONIC stamps into wall-clock time. Between its two reads a thread may
// have to wait for a CPU, for milliseconds: it keeps what it knows for as long as nobody sets the wall clock,
// so that events are in order however busy the node is. It may be used by several goroutines.
type Clock struct {
	read func() clocks
	// offset is the wall clock minus the monotonic one, in nanoseconds.
	offset atomic.Int64
}

// clocks are the wall clock and the monotonic one before and after it, in nanoseconds.
type clocks struct {
	before, after int64
	wall          time.Time
}

// offset returns what lies between the clocks at least and at most.
func (c clocks) offset() (least, most int64) {
	return c.wall.UnixNano() - c.after, c.wall.UnixNano() - c.before
}

// clockReads is how often both clocks are read until it is believed that somebody has set one.
const clockReads = 8

// NewClock returns a clock that has read both.
func NewClock() *Clock {
	c := &Clock{read: readClocks}
	c.Read()
	return c
}

func readClocks() clocks {
	var c clocks
	c.before = monotonic()
	c.wall = time.Now()
	c.after = monotonic()
	return c
}

func monotonic() int64 {
	var mono unix.Timespec
	// CLOCK_MONOTONIC cannot fail on Linux: the clock is always there and the pointer is valid.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	return mono.Nano()
}

// Read reads the wall clock. Take a new reading for each batch of events.
func (c *Clock) Read() Reading {
	var best clocks
	for i := range clockReads {
		now := c.read()
		offset := c.offset.Load()
		if least, most := now.offset(); least <= offset && offset <= most {
			return Reading{now.wall, offset}
		}
		if i == 0 || now.after-now.before < best.after-best.before {
			best = now
		}
	}
	least, most := best.offset()
	offset := least + (most-least)/2
	c.offset.Store(offset)
	return Reading{best.wall, offset}
}

// Reading is a wall-clock time, and how the kernel's stamps relate to it.
type Reading struct {
	now    time.Time
	offset int64
}

// Time returns the wall-clock time of a stamp of bpf_ktime_get_ns().
func (r Reading) Time(ktimeNs uint64) time.Time { return time.Unix(0, r.offset+int64(ktimeNs)) }

// Now returns the wall-clock time of the reading.
func (r Reading) Now() time.Time { return r.now }

// BootTime returns when the kernel's counters began: the start of the kernel.
func BootTime() (time.Time, error) {
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, fmt.Errorf("read CLOCK_BOOTTIME: %w", err)
	}
	return time.Now().Add(-time.Duration(boot.Nano())), nil
}

// Tick returns the period of the kernel's tick, by which jiffies count.
func Tick() (time.Duration, error) {
	var tick unix.Timespec
	// The coarse clocks move with the tick; CONFIG_HZ cannot be read everywhere.
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the resolution of CLOCK_MONOTONIC_COARSE: %w", err)
	}
	return time.Duration(tick.Nano()), nil
}
