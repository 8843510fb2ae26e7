// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver"
)

func newSelfTestCommand() *cobra.Command {
	var (
		root    string
		asJSON  bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "selftest [PROBE...]",
		Short: "Prove on this kernel that every probe sees what it must see",
		Long: `Run every probe, or those that are named, and make happen what it must see: closed ports, resets, late readers.

The traffic stays in private network namespaces, which are gone with this process however it
ends; nothing else on the node is touched, and probes that run already are not either. Every field of
the events is compared with what was done, for IPv4 and IPv6.

Verdicts: ok, failed, unavailable (this kernel cannot run the hook), untested (nothing within
private namespaces makes it happen). The exit code is 0 if nothing failed, 1 if something did or
if there was no test. It takes the privileges of the agent, and CAP_NET_RAW.`,
		RunE: func(cmd *cobra.Command, probes []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			results, err := netexporterreceiver.SelfTest(ctx, netexporterreceiver.SelfTestOptions{RootPath: root, Probes: probes})
			if errors.Is(err, netexporterreceiver.ErrNoProbe) {
				return usageError{err}
			}
			if err != nil && len(results) == 0 {
				return err
			}
			print := printTable
			if asJSON {
				print = printJSON
			}
			if err := print(cmd.OutOrStdout(), results); err != nil {
				return err
			}
			if err != nil {
				return fmt.Errorf("not all was tested: %w", err)
			}
			switch ok, failed := count(results, netexporterreceiver.VerdictOK), count(results, netexporterreceiver.VerdictFailed); {
			case failed > 0:
				return fmt.Errorf("%d of %d hooks do not work", failed, len(results))
			case ok == 0:
				return errors.New("nothing could be tested")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&root, "root", "/", "where the root directory of the host is mounted")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print a JSON array")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "end, and fail, after this time")
	return cmd
}

func count(results []netexporterreceiver.SelfTestResult, verdict netexporterreceiver.Verdict) int {
	number := 0
	for _, r := range results {
		if r.Verdict == verdict {
			number++
		}
	}
	return number
}

func printTable(w io.Writer, results []netexporterreceiver.SelfTestResult) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROBE\tHOOK\tVARIANT\tVERDICT\tREASON")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Probe, r.Hook, r.Variant, r.Verdict, r.Reason)
	}
	return table.Flush()
}

func printJSON(w io.Writer, results []netexporterreceiver.SelfTestResult) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(results)
}
