// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kernel

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestClockReadsTheTime(t *testing.T) {
	c := NewClock()
	before := time.Now()
	reading, stamp := c.Read(), uint64(monotonic())
	after := time.Now()
	assert.WithinRange(t, reading.Now(), before, after)
	// As exact as the clocks can be read one after the other.
	for range 1000 {
		before, stamp, after = time.Now(), uint64(monotonic()), time.Now()
		if after.Sub(before) < time.Millisecond {
			break
		}
	}
	assert.WithinRange(t, c.Read().Time(stamp), before.Add(-time.Millisecond), after.Add(time.Millisecond))
}

// A thread waits for a CPU between its reads: stamps keep their times, and so events their order.
func TestClockWaits(t *testing.T) {
	boot := time.Unix(1_700_000_000, 0)
	mono := int64(0)
	var waits [3]int64 // before the first read, the second, the third
	c := &Clock{}
	c.read = func() clocks {
		var now clocks
		mono += 100 + waits[0]
		now.before = mono
		mono += 100 + waits[1]
		now.wall = boot.Add(time.Duration(mono))
		mono += 100 + waits[2]
		now.after = mono
		return now
	}
	stamp := uint64(5000)
	at := c.Read().Time(stamp)
	assert.WithinDuration(t, boot.Add(5000), at, 200)
	for i := range waits {
		waits = [3]int64{}
		waits[i] = int64(time.Second)
		assert.Equal(t, at, c.Read().Time(stamp), "waits before read %d", i)
	}

	waits = [3]int64{}
	boot = boot.Add(-time.Hour) // somebody sets the wall clock
	reading := c.Read()
	assert.WithinDuration(t, boot.Add(5000), reading.Time(stamp), 200)
	assert.WithinDuration(t, boot.Add(time.Duration(mono)), reading.Now(), 10*time.Microsecond)
}

// The first reading is the best of several: nothing is known to compare it with.
func TestClockWaitsAtFirst(t *testing.T) {
	boot := time.Unix(1_700_000_000, 0)
	mono, reads := int64(0), 0
	c := &Clock{}
	c.read = func() clocks {
		reads++
		now := clocks{before: mono}
		if reads == 1 {
			mono += int64(time.Second)
		}
		now.wall = boot.Add(time.Duration(mono))
		mono += 100
		now.after = mono
		return now
	}
	assert.WithinDuration(t, boot.Add(5000), c.Read().Time(5000), 200)
}
