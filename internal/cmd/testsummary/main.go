// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command testsummary reads the output of `go test -json` from standard input and prints what a reader
// wants of it: a line a package, all output of what failed, and at the end each reason for which tests
// were skipped, with their number. It exits 1 if anything failed.
package main

import (
	"fmt"
	"os"
)

func main() {
	ok, err := summarize(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}
