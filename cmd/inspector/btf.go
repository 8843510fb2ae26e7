// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/netexporter/netexporter/internal/kernel"
)

func newBTFCommand() *cobra.Command {
	btf := &cobra.Command{
		Use:   "btf",
		Short: "BTF, the kernel's description of its own types",
	}
	var root string
	discover := &cobra.Command{
		Use:   "discover",
		Short: "Print the BTF file of the running kernel that will be used",
		Long: `Print the path of the BTF file of the running kernel that the agent will use.

It looks at the kernel's own BTF first, then in /boot and in the directories of kernel
packages and of their debug symbols. Raw BTF and an uncompressed vmlinux both serve.
The exit code is 1, and the message says what to install, if there is none.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			release, err := kernel.Release()
			if err != nil {
				return err
			}
			source, err := kernel.FindBTF(root, release)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), source.Path)
			return nil
		},
	}
	discover.Flags().StringVar(&root, "root", "/", "where the root directory of the host is mounted")
	btf.AddCommand(discover)
	return btf
}
