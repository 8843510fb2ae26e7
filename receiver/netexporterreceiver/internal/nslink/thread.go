// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// thread is an OS thread that alone runs what goes to other network namespaces. It is one thread
// for all passes because one that ends takes the child processes with it that it happened to start
// and that have a parent death signal.
type thread struct {
	work chan func() (left bool)
	// home is a file of the thread's first namespace, which is the process's own.
	home int
	// result tells how the thread came home, first from nowhere. It is closed when the thread is
	// given back or, away from home, has been given up.
	result chan error
}

// startThread returns a thread that is in its own namespace.
func startThread() (*thread, error) {
	t := &thread{work: make(chan func() bool), result: make(chan error), home: -1}
	go t.run()
	if err := <-t.result; err != nil {
		return nil, err
	}
	return t, nil
}

func (t *thread) run() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The main thread's namespace is what /proc shows as the process's own, and the runtime
		// cannot end it. As long as this goroutine holds it, another one gets another thread.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			t.serve()
		}()
		<-locked
		runtime.UnlockOSThread()
		return
	}
	t.serve()
}

// serve runs what comes in until there is no more or the thread cannot go home. In that case the
// thread stays locked, and so ends with its goroutine.
func (t *thread) serve() {
	defer close(t.result)
	var err error
	if t.home, err = open([]byte("/proc/thread-self/ns/net\x00")); err != nil {
		runtime.UnlockOSThread()
		t.result <- fmt.Errorf("open the own network namespace: %w", err)
		return
	}
	defer unix.Close(t.home)
	t.result <- nil
	for f := range t.work {
		if left := f(); !left {
			t.result <- nil
			continue
		}
		if err := unix.Setns(t.home, unix.CLONE_NEWNET); err != nil {
			t.result <- fmt.Errorf("return to the own network namespace: %w", err)
			return
		}
		t.result <- nil
	}
	runtime.UnlockOSThread()
}

// do runs f on the thread. f returns true if the thread has left its namespace; do returns an error
// if it could not go home again, and so is no more.
func (t *thread) do(f func() (left bool)) error {
	t.work <- f
	return <-t.result
}

// stop ends the thread, which must be at home.
func (t *thread) stop() {
	close(t.work)
	<-t.result
}
