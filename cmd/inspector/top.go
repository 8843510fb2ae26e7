// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
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
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"golang.org/x/term"
	"google.golang.org/grpc"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
)

func newTopCommand() *cobra.Command {
	t := top{sort: sortDrops}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show which network namespaces lose packets, live",
		Long: `Show the network namespaces of nodes by what troubles them, refreshed with each collection pass:

  DROPS    packets a second that the kernel dropped and that were not at fault themselves
  RESETS   TCP resets a second that were sent
  RETRANS  TCP segments a second that were sent again
  QUEUE    bytes now in the queues of TCP connections, both ways

Keys: d r t q sort by drops, resets, retransmissions, queue; n by name; / filters by a part of
the names, Enter ends it, Escape clears it; Ctrl-C or x ends the command.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.run(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	t.addFlags(cmd)
	t.filter.addFlags(cmd, false)
	cmd.Flags().StringVar((*string)(&t.sort), "sort", string(sortDrops), "`column` to sort by: drops, resets, retrans, queue, name")
	complete(cmd, "sort", string(sortDrops), string(sortResets), string(sortRetrans), string(sortQueue), string(sortName))
	cmd.Flags().BoolVar(&t.once, "once", false, "print one table, of the next two collection passes, and end: needs no terminal")
	return cmd
}

// column is what top sorts by.
type column string

const (
	sortDrops   column = "drops"
	sortResets  column = "resets"
	sortRetrans column = "retrans"
	sortQueue   column = "queue"
	sortName    column = "name"
)

// sortKeys returns the keys that sort.
func sortKeys() map[rune]column {
	return map[rune]column{'d': sortDrops, 'r': sortResets, 't': sortRetrans, 'q': sortQueue, 'n': sortName}
}

// Metrics that top shows, from the metadata.yaml of the receiver.
const (
	metricDrops   = "inspector_pod_packetloss_abnormal"
	metricResets  = "inspector_pod_tcpoutrsts"
	metricRetrans = "inspector_pod_tcpretranssegs"
	metricTxQueue = "inspector_pod_tcpsummarytcptxqueue"
	metricRxQueue = "inspector_pod_tcpsummarytcprxqueue"
)

// top is the command with its flags.
type top struct {
	connection
	filter filterFlags
	sort   column
	once   bool
}

// named is a network namespace as top names it.
type named struct{ namespace, pod, netns, node string }

func (n named) String() string { return n.namespace + "/" + n.pod + " " + n.netns + " " + n.node }

// measure is what a pass says of a namespace: counters, but for the queue.
type measure struct {
	at                            pcommon.Timestamp
	drops, resets, retrans, queue int64
}

// rates is what a namespace does now.
type rates struct {
	named
	known                  bool // false with the first pass
	drops, resets, retrans float64
	queue                  int64
}

// topPass is a collection pass of one node, or why there is none.
type topPass struct {
	source   string
	measures map[named]measure
	err      error
}

func (t *top) run(ctx context.Context, in io.Reader, out io.Writer) error {
	if !slices.Contains(slices.Collect(maps.Values(sortKeys())), t.sort) {
		return usagef("--sort %q: must be drops, resets, retrans, queue or name", t.sort)
	}
	if !t.once && (!isTerminal(in) || !isTerminal(out)) {
		return usagef("top needs a terminal; --once prints one table anywhere")
	}
	filter, err := t.filter.request()
	if err != nil {
		return err
	}
	nodes, err := t.nodes(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := &eventstreamv1.WatchMetricsRequest{
		Filter: filter, Names: []string{metricDrops, metricResets, metricRetrans, metricTxQueue, metricRxQueue},
	}
	passes := make(chan topPass)
	for _, n := range nodes {
		defer n.connection.Close()
		go follow(ctx, n, t.timeout, request, passes)
	}
	v := &view{sort: t.sort, last: map[string]map[named]measure{}, rates: map[string][]rates{}, failures: map[string]error{}}
	if t.once {
		return t.printOnce(ctx, passes, v, len(nodes), out)
	}
	return show(ctx, passes, v, len(nodes), in.(*os.File), out.(*os.File))
}

// follow sends the passes of a node until ctx ends, and tries again after it was cut off.
func follow(ctx context.Context, n *node, timeout time.Duration, request *eventstreamv1.WatchMetricsRequest, to chan<- topPass) {
	send := func(p topPass) error {
		p.source = n.address
		select {
		case to <- p:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for {
		measures := map[named]measure{}
		err := watchPasses(ctx, n, timeout, request,
			func(res pcommon.Map, m pmetric.Metric) { add(measures, res, m) },
			func() error {
				p := topPass{measures: measures}
				measures = map[named]measure{}
				return send(p)
			})
		if ctx.Err() != nil || send(topPass{err: n.explain(err)}) != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
}

// watchPasses calls each with all metrics of a pass and then done, pass after pass, until one of them fails.
func watchPasses(ctx context.Context, n *node, timeout time.Duration, request *eventstreamv1.WatchMetricsRequest,
	each func(pcommon.Map, pmetric.Metric), done func() error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var stream grpc.ServerStreamingClient[eventstreamv1.WatchMetricsResponse]
	if err := begin(cancel, timeout, func() (err error) {
		if stream, err = n.WatchMetrics(ctx, request); err == nil {
			_, err = stream.Header()
		}
		return err
	}); err != nil {
		return err
	}
	var unmarshaler pmetric.ProtoUnmarshaler
	for {
		r, err := stream.Recv()
		if err != nil {
			return notEOF(err)
		}
		md, err := unmarshaler.UnmarshalMetrics(r.GetMetrics())
		if err != nil {
			return fmt.Errorf("%s: what came is no OTLP: %w", n.address, err)
		}
		for _, rm := range md.ResourceMetrics().All() {
			for _, sm := range rm.ScopeMetrics().All() {
				for _, m := range sm.Metrics().All() {
					each(rm.Resource().Attributes(), m)
				}
			}
		}
		if r.GetComplete() {
			if err := done(); err != nil {
				return err
			}
		}
	}
}

// add adds a metric to what a pass says of its namespace.
func add(measures map[named]measure, res pcommon.Map, m pmetric.Metric) {
	name := named{text(res, keyLabelNamespace), text(res, keyLabelPod), text(res, keyLabelNetns), nodeOf(res)}
	now := measures[name]
	var dps pmetric.NumberDataPointSlice
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		dps = m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		dps = m.Sum().DataPoints()
	default:
		return
	}
	for _, dp := range dps.All() {
		now.at = max(now.at, dp.Timestamp())
		switch m.Name() {
		case metricDrops:
			now.drops += dp.IntValue()
		case metricResets:
			now.resets += dp.IntValue()
		case metricRetrans:
			now.retrans += dp.IntValue()
		case metricTxQueue, metricRxQueue:
			now.queue += dp.IntValue()
		}
	}
	measures[name] = now
}

// view is what top shows.
type view struct {
	sort     column
	word     string // that a name must have
	typing   bool   // the word
	last     map[string]map[named]measure
	rates    map[string][]rates // by source
	failures map[string]error
	passes   int
}

// take takes a pass into account.
func (v *view) take(p topPass) {
	if p.err != nil {
		v.failures[p.source] = p.err
		delete(v.rates, p.source)
		return
	}
	delete(v.failures, p.source)
	v.passes++
	before := v.last[p.source]
	v.last[p.source] = p.measures
	all := make([]rates, 0, len(p.measures))
	for name, now := range p.measures {
		r := rates{named: name, queue: now.queue}
		if was, ok := before[name]; ok && now.at > was.at {
			seconds := float64(now.at-was.at) / 1e9
			r.known = true
			// A counter that has begun anew has done at least what it shows.
			rate := func(now, was int64) float64 {
				if now < was {
					was = 0
				}
				return float64(now-was) / seconds
			}
			r.drops, r.resets, r.retrans = rate(now.drops, was.drops), rate(now.resets, was.resets), rate(now.retrans, was.retrans)
		}
		all = append(all, r)
	}
	v.rates[p.source] = all
}

// rows returns what is to be shown, sorted.
func (v *view) rows() []rates {
	var rows []rates
	for _, all := range v.rates {
		for _, r := range all {
			if strings.Contains(strings.ToLower(r.String()), strings.ToLower(v.word)) {
				rows = append(rows, r)
			}
		}
	}
	slices.SortFunc(rows, func(a, b rates) int {
		byColumn := 0
		switch v.sort {
		case sortDrops:
			byColumn = cmp.Compare(b.drops, a.drops)
		case sortResets:
			byColumn = cmp.Compare(b.resets, a.resets)
		case sortRetrans:
			byColumn = cmp.Compare(b.retrans, a.retrans)
		case sortQueue:
			byColumn = cmp.Compare(b.queue, a.queue)
		}
		return cmp.Or(byColumn, cmp.Compare(a.String(), b.String()))
	})
	return rows
}

// table returns the lines of the table, cut to a size; 0 is no limit.
func (v *view) table(width, height int) []string {
	rows := v.rows()
	lines := []string{fmt.Sprintf("%-20s %-32s %-14s %-16s %10s %10s %10s %12s", "NAMESPACE", "POD", "NETNS", "NODE", "DROPS/s", "RESETS/s", "RETRANS/s", "QUEUE")}
	for _, r := range rows {
		if height > 0 && len(lines) == height {
			break
		}
		lines = append(lines, fmt.Sprintf("%-20s %-32s %-14s %-16s %10s %10s %10s %12d",
			orDash(shorten(r.namespace, 20)), orDash(shorten(r.pod, 32)), orDash(r.netns), orDash(shorten(r.node, 16)), r.rate(r.drops), r.rate(r.resets), r.rate(r.retrans), r.queue))
	}
	for i, line := range lines {
		line = strings.Map(printable, line)
		if width > 0 {
			line = shorten(line, width)
		}
		lines[i] = strings.TrimRight(line, " ")
	}
	return lines
}

func (r *rates) rate(value float64) string {
	if !r.known {
		return "-"
	}
	return fmt.Sprintf("%.1f", value)
}

// shorten cuts a text to a width, the last character showing that it was.
func shorten(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}

func (v *view) errors() error {
	var errs []error
	for _, source := range slices.Sorted(maps.Keys(v.failures)) {
		errs = append(errs, v.failures[source])
	}
	return errors.Join(errs...)
}

// printOnce prints one table of the rates between two passes of each node.
func (t *top) printOnce(ctx context.Context, passes <-chan topPass, v *view, nodes int, out io.Writer) error {
	seen := map[string]int{}
	for ready := 0; ready+len(v.failures) < nodes; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-passes:
			v.take(p)
			if seen[p.source]++; p.err == nil && seen[p.source] == 2 {
				ready++
			}
		}
	}
	if len(v.rates) == 0 {
		return v.errors()
	}
	for _, line := range v.table(0, 0) {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return v.errors()
}

// Control sequences of terminals.
const (
	screenEnter = "\x1b[?1049h\x1b[?25l" // another screen, no cursor
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K\r\n"
	screenRest  = "\x1b[J"
)

// show shows the table until a key or ctx ends it, and leaves the terminal as it was.
func show(ctx context.Context, passes <-chan topPass, v *view, nodes int, in, out *os.File) error {
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	defer func() { _ = term.Restore(int(in.Fd()), before) }()
	if _, err := io.WriteString(out, screenEnter); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, screenLeave) }()
	keys := make(chan rune)
	go func() { // ends with the process: nothing wakes a read of the terminal
		for r := bufio.NewReader(in); ; {
			key, _, err := r.ReadRune()
			if err != nil {
				key = ctrlC
			}
			select {
			case keys <- key:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		if err := v.draw(out); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case p := <-passes:
			v.take(p)
			if v.passes == 0 && len(v.failures) == nodes {
				return v.errors()
			}
		case key := <-keys:
			if !v.press(key) {
				return nil
			}
		}
	}
}

const (
	ctrlC     = 0x03
	escape    = 0x1b
	backspace = 0x7f
)

// press does what a key means, and tells whether to go on.
func (v *view) press(key rune) bool {
	switch {
	case key == ctrlC:
		return false
	case v.typing && key == escape:
		v.typing, v.word = false, ""
	case v.typing && (key == '\r' || key == '\n'):
		v.typing = false
	case v.typing && (key == backspace || key == '\b'):
		if word := []rune(v.word); len(word) > 0 {
			v.word = string(word[:len(word)-1])
		}
	case v.typing:
		if key == printable(key) {
			v.word += string(key)
		}
	case key == '/':
		v.typing = true
	case key == escape:
		v.word = ""
	case key == 'x':
		return false
	default:
		if by, ok := sortKeys()[key]; ok {
			v.sort = by
		}
	}
	return true
}

func (v *view) draw(out *os.File) error {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil || width < 1 || height < 3 {
		width, height = 80, 24
	}
	status := fmt.Sprintf("inspector top: sorted by %s; keys d r t q n sort, / filters, x ends", v.sort)
	if v.typing || v.word != "" {
		status = "filter: " + v.word
	}
	if v.passes == 0 {
		status = "waiting for a collection pass"
	}
	if err := v.errors(); err != nil {
		status = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	var b strings.Builder
	b.WriteString(screenHome)
	b.WriteString(strings.Map(printable, shorten(status, width)) + lineEnd)
	for i, line := range v.table(width, height-2) {
		if i == 0 {
			line = palette{true}.header() + line + palette{true}.reset()
		}
		b.WriteString(line + lineEnd)
	}
	b.WriteString(screenRest)
	_, err = io.WriteString(out, b.String())
	return err
}
