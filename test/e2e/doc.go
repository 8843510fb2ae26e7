// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package e2e tests the built programs as their users see them: bin/netexporter with the shipped configuration, its
// Prometheus endpoint, its standard output and its exit, and bin/inspector. It looks at nothing inside of them.
//
// The programs are those that `make build` made last. Tests that need root, or a program of Debian's (prometheus,
// promtool), are skipped with the reason where there is none. An agent that runs already is not disturbed: all ports
// but those of one test are free ones.
package e2e
