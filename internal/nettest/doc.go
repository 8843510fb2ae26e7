// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package nettest makes real traffic in private network namespaces, for tests and for the self-test.
//
// [New] gives two namespaces joined by a veth pair; nothing of them can be seen from the host's network. The methods of
// [Pair] bring the kernel to do one thing each (drop a datagram, send a reset, keep a connection in TIME_WAIT) and
// return the packet that did it, so that a test can compare what was observed with what happened. They wait for the
// kernel by its own counters and socket states, never for a span of time, so they hold on a slow, emulated machine.
//
// Everything fails the test it is handed and cleans up when that test ends, however it ends. The package needs root, and
// for namespaces with names the `ip` program of iproute2; without them the test is skipped.
package nettest
