// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/netexporter/netexporter/internal/kernel"
)

func newBTFCommand() *cobra.Command {
	btf := &cobra.Command{
		Use:   "btf",
		Short: "BTF, the kernel's description of its own types",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var (
		root   string
		asJSON bool
	)
	discover := &cobra.Command{
		Use:   "discover",
		Short: "Print the BTF file of the running kernel that will be used",
		Long: `Print the path of the BTF file of the running kernel that the agent will use, and on standard
error how it is known to be of this kernel.

It looks at the kernel's own BTF first, then in /boot and in the directories of kernel packages and
of their debug symbols. Raw BTF and an uncompressed vmlinux both serve. A file of another kernel
does not: its build id must be that of the running kernel, or else its release, or where it names
neither, the functions that it describes must be there.

If there is none, the exit code is 1, and the message says what to install and which files did not
serve.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			release, err := kernel.Release()
			if err != nil {
				return err
			}
			source, err := kernel.FindBTF(root, release)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"path": source.Path, "proof": source.Proof, "release": release})
			}
			if _, err := fmt.Fprintln(cmd.OutOrStdout(), source.Path); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "BTF of %s: %s\n", release, map[string]string{
				"own":       "the kernel's own",
				"build_id":  "the file has the kernel's build id",
				"release":   "the file names the kernel's release",
				"functions": "the functions that the file describes are the kernel's",
			}[source.Proof])
			return nil
		},
	}
	discover.Flags().StringVar(&root, "root", "/", "where the root directory of the host is mounted")
	discover.Flags().BoolVar(&asJSON, "json", false, "print path, proof (own, build_id, release, functions) and kernel release as JSON")
	btf.AddCommand(discover)
	return btf
}
