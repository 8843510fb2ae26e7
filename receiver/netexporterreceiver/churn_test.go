// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/test/bench/population"
)

var churn = flag.Duration("churn", time.Minute, "how long TestChurn makes and removes network namespaces; 5s at most with -short")

// Namespaces come and go in crowds while the kernel is read without a pause. Nothing that is read may be impossible,
// and nothing may stay behind.
func TestChurn(t *testing.T) {
	namespaces, sockets, duration := 150, 40, *churn
	if testing.Short() {
		namespaces, duration = 30, min(duration, 5*time.Second)
	}
	a := startAlone(t)
	collect(t, a)
	log := kernelLog(t)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)

	c := newChecker(sockets)
	var made []*population.Population
	done := make(chan error, 1)
	go func() {
		var err error
		for end := time.Now().Add(duration); err == nil && time.Now().Before(end); {
			var p *population.Population
			if p, err = population.New(namespaces, sockets); err == nil {
				c.add(p)
				made = append(made, p)
				// At least one pass sees all of it at rest: the next but one begins after this.
				err = errors.Join(c.waitForPasses(2), p.Close())
			}
		}
		done <- err
	}()
	passes := 0
	for running := true; running; passes++ {
		select {
		case err := <-done:
			require.NoError(t, err)
			running = false
		default:
		}
		metrics, err := a.collect(t.Context())
		require.NoError(t, err)
		c.check(t, metrics)
	}
	t.Logf("%d passes, %d namespaces made, %d seen, %d of them at rest", passes, namespaces*len(made), c.seen, c.atRest)
	assert.Equal(t, namespaces*len(made), c.atRest, "each namespace was there for a whole pass")

	// Nothing stays behind.
	for _, p := range made {
		waitUntilGone(t, a, p)
	}
	nettest.Wait(t, fmt.Sprintf("no more than %d goroutines", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines })
	nettest.Wait(t, fmt.Sprintf("no more than %d open files", files), func() bool { return openFiles(t) <= files })
	for _, line := range kernelLog(t) {
		assert.True(t, slices.Contains(log, line), "the kernel complains: %s", line)
	}
}
