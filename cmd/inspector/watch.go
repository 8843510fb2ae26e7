// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/eventline"
)

func newWatchCommand() *cobra.Command {
	var w watch
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print the events of nodes as they happen",
		Long: `Print the events of one node or of several as they happen, one a line, until Ctrl-C.

Events of several nodes are merged in the order of their time, as far as the nodes' clocks agree;
for that each line waits 0.1 s. What else there is to say (a node is cut off, is there again, events
were lost) goes to standard error, so that standard output is events alone. A node that is cut off is
tried again; if its agent still runs, the events in between come late but come.

Filters run on the node. An event must fit one value of each filter that is given.`,
		Example: `  inspector watch
  inspector watch -e 10.1.16.255
  inspector watch -s 10.1.17.113 -s 10.1.18.14 -d -v
  inspector watch --type TCPRESET_NOSOCK,PACKETLOSS --namespace shop --since 10m
  inspector watch --address 10.0.0.0/8 --port 53 -o wide`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return w.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	w.addFlags(cmd)
	w.filter.addFlags(cmd, true)
	f := cmd.Flags()
	f.BoolVarP(&w.debug, "debug", "d", false, "say on standard error what the connections do")
	f.BoolVarP(&w.verbose, "verbose", "v", false, "print JSON lines, as -o json")
	f.StringVarP(&w.output, "output", "o", formatText, "`format`: text, json, or wide (text with the time and all parts)")
	f.StringVar(&w.since, "since", "", "begin with what the agents remember since a `time`: 10m (ago), or 2006-01-02T15:04:05Z")
	f.IntVar(&w.count, "count", 0, "end after this many `events`; 0: never")
	f.StringVar(&w.color, "color", "auto", "`when` to use colors: auto (on a terminal, unless NO_COLOR is set), always, never")
	complete(cmd, "output", formatText, formatJSON, formatWide)
	complete(cmd, "color", "auto", "always", "never")
	complete(cmd, "type", eventNames()...)
	return cmd
}

// filterFlags are the flags of a Filter.
type filterFlags struct {
	eventstreamv1.Filter
	ports []uint
}

func (o *filterFlags) addFlags(cmd *cobra.Command, ofEvents bool) {
	f := cmd.Flags()
	f.StringSliceVar(&o.Pods, "pod", nil, "only of these `pods`")
	f.StringSliceVarP(&o.Namespaces, "namespace", "n", nil, "only of pods in these Kubernetes `namespaces`")
	f.StringSliceVar(&o.Netns, "netns", nil, "only of these network namespaces: `inode` numbers, or ns0 for the host")
	if ofEvents {
		f.StringSliceVarP(&o.Events, "type", "t", nil, "only these `events`, as TCPRESET_NOSOCK")
		f.StringSliceVar(&o.Addresses, "address", nil, "only from or to these `addresses` or prefixes, as 10.0.0.0/8")
		f.UintSliceVar(&o.ports, "port", nil, "only from or to these `ports`")
		f.Lookup("port").DefValue = "" // not []
	}
}

// request returns the Filter.
func (o *filterFlags) request() (*eventstreamv1.Filter, error) {
	f := &eventstreamv1.Filter{
		Events: o.Events, Pods: o.Pods, Namespaces: o.Namespaces, Netns: o.Netns, Addresses: o.Addresses,
	}
	for _, p := range o.ports {
		if p > 65535 {
			return nil, usagef("--port %d: must be at most 65535", p)
		}
		f.Ports = append(f.Ports, uint32(p))
	}
	return f, nil
}

// watch is the command with its flags.
type watch struct {
	connection
	filter         filterFlags
	debug, verbose bool
	output, color  string
	since          string
	count          int
}

func (w *watch) run(ctx context.Context, out, notices io.Writer) error {
	render, err := w.renderer(out)
	if err != nil {
		return err
	}
	filter, err := w.filter.request()
	if err != nil {
		return err
	}
	since, err := parseSince(w.since, time.Now())
	if err != nil {
		return err
	}
	nodes, err := w.nodes(ctx)
	if err != nil {
		return err
	}
	for _, name := range unknownEvents(filter.Events) {
		fmt.Fprintf(notices, "inspector: --type %s: this version knows no such event (inspector list event: those that it knows); waiting for it all the same\n", name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endWithReader(out)
	deliveries := make(chan delivery)
	for _, n := range nodes {
		defer n.connection.Close()
		request := &eventstreamv1.WatchRequest{Filter: filter, Since: since}
		go (&watcher{node: n, request: request, timeout: w.timeout, to: deliveries}).run(ctx)
	}
	p := &printer{watch: w, out: out, notices: notices, render: render, merged: len(nodes) > 1}
	return p.print(ctx, deliveries, len(nodes))
}

func (w *watch) renderer(out io.Writer) (renderer, error) {
	if w.verbose {
		w.output = formatJSON
	}
	colors, err := colorsFor(w.color, out)
	if err != nil {
		return nil, err
	}
	render := newRenderer(w.output, colors)
	if render == nil {
		return nil, usagef("--output %q: must be text, json or wide", w.output)
	}
	if w.count < 0 {
		return nil, usagef("--count %d: must be 0 or more", w.count)
	}
	return render, nil
}

// colorsFor returns the colors for what is written to out.
func colorsFor(when string, out io.Writer) (palette, error) {
	switch when {
	case "always":
		return palette{true}, nil
	case "never":
		return palette{}, nil
	case "auto":
		_, no := os.LookupEnv("NO_COLOR")
		return palette{!no && isTerminal(out)}, nil
	}
	return palette{}, usagef("--color %q: must be auto, always or never", when)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// unknownEvents returns the names of which no event is known here. An agent may be newer, and other receivers may send events.
func unknownEvents(names []string) []string {
	known := append(eventNames(), slices.Collect(maps.Keys(eventline.Aliases()))...)
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(known, strings.ToUpper(name)) })
}

// endWithReader ends the process once nobody reads the pipe any more that it writes to, as the next write would: the next event
// may be long in coming.
func endWithReader(out io.Writer) {
	f, ok := out.(*os.File)
	if !ok {
		return
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return
	}
	go func() { // ends with the process
		fds := []unix.PollFd{{Fd: int32(f.Fd())}} // of POLLERR one hears unasked
		for {
			_, err := unix.Poll(fds, -1)
			if err == nil && fds[0].Revents&unix.POLLERR != 0 {
				_, _ = f.WriteString("\n") // nobody gets it: SIGPIPE
			}
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
}

// parseSince returns nil for the empty text.
func parseSince(text string, now time.Time) (*timestamppb.Timestamp, error) {
	if text == "" {
		return nil, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return timestamppb.New(now.Add(-ago)), nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return timestamppb.New(at), nil
	}
	return nil, usagef("--since %q: must be a duration, as 10m, or a time, as 2006-01-02T15:04:05Z", text)
}

// printer prints what watchers deliver.
type printer struct {
	*watch
	out, notices io.Writer
	render       renderer
	merged       bool // of several nodes
	merger       merger
	line         []byte
	printed      int
}

// errEnough ends the command after --count events.
var errEnough = errors.New("that was all")

// print returns when ctx ends, when all watchers are over, or when none of them came to run.
func (p *printer) print(ctx context.Context, deliveries <-chan delivery, nodes int) error {
	var (
		failures = map[string]error{}
		joined   bool
		over     int
	)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case now := <-timer.C:
			err = p.write(p.merger.due(now))
		case d := <-deliveries:
			joined = joined || d.joined
			if d.err != nil {
				failures[d.source] = d.err
			}
			if d.over {
				over++
			}
			if over == nodes || !joined && len(failures) == nodes {
				var all []error
				for _, err := range failures {
					all = append(all, err)
				}
				return errors.Join(all...)
			}
			err = p.take(d)
		}
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return err
		}
		if at, waiting := p.merger.next(); waiting {
			timer.Reset(time.Until(at))
		}
	}
}

func (p *printer) take(d delivery) error {
	switch {
	case d.over:
		p.say("%v", d.err)
	case d.err != nil:
		p.say("%v; trying again", d.err)
	case d.notice != "":
		p.say("%s", d.notice)
	}
	if p.debug && d.debug != "" {
		p.say("%s", d.debug)
	}
	if p.merged {
		p.merger.add(d.records, time.Now())
		return nil
	}
	return p.write(d.records)
}

func (p *printer) say(format string, args ...any) {
	fmt.Fprintf(p.notices, "inspector: "+format+"\n", args...)
}

// write writes the lines of records, in one write.
func (p *printer) write(records []record) error {
	enough := false
	if left := p.count - p.printed; p.count > 0 && len(records) >= left {
		records, enough = records[:left], true
	}
	p.line = p.line[:0]
	for _, r := range records {
		p.line = p.render(p.line, r)
	}
	p.printed += len(records)
	if len(p.line) > 0 {
		if _, err := p.out.Write(p.line); err != nil {
			return err
		}
	}
	if enough {
		return errEnough
	}
	return nil
}
