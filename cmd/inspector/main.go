// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Inspector is the command line of netexporter.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/grpclog"
)

// version is that of the distribution, in builder-config.yaml.
const version = "0.1.0"

// Exit codes.
const (
	exitFailure = 1 // it was tried and failed
	exitUsage   = 2 // it makes no sense as it was asked for
)

func main() {
	// What gRPC has to say of a connection is said by explain, in the user's terms.
	if _, wanted := os.LookupEnv("GRPC_GO_LOG_SEVERITY_LEVEL"); !wanted {
		grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "inspector:", err)
		os.Exit(exitCode(err))
	}
}

// usageError is a mistake in what was asked for.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func exitCode(err error) int {
	if errors.As(err, &usageError{}) {
		return exitUsage
	}
	return exitFailure
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:     "inspector",
		Version: version,
		Short:   "Look into the network of a node",
		Long: `Look into the network of a node: events as they happen, whose the network namespaces are,
what the agent sees and does not see.

Exit codes: 0 if it did what was asked for, 1 if that failed, 2 if what was asked for makes no
sense. Ending a command that goes on by itself with Ctrl-C is no failure.`,
		// Errors are printed once, by main; a failed look-up is no reason to explain the flags.
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newWatchCommand(), newListCommand(), newTopCommand(), newBTFCommand(), newSelfTestCommand())
	return root
}

// noSuchCommand is the Args of a command that has nothing but others.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q; see %s --help", args[0], cmd.CommandPath())
	}
	return nil
}

// noArguments is the Args of a command that takes flags alone.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("%s takes no arguments, got %q; see --help", cmd.CommandPath(), args[0])
	}
	return nil
}

// complete offers values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// The error is of a flag that there is not, or that has been completed: the tests ask each.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}
