// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Inspector is the command line of netexporter.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "inspector:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "inspector",
		Short: "Look into the network of a node",
		// Errors are printed once, by main; a failed look-up is no reason to explain the flags.
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newBTFCommand(), newSelfTestCommand())
	return root
}
