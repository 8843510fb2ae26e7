// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
	"github.com/netexporter/netexporter/internal/entity"
	"github.com/netexporter/netexporter/internal/eventline"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver"
)

func newListCommand() *cobra.Command {
	list := &cobra.Command{
		Use:   "list",
		Short: "List what an agent knows: network namespaces, probes, events, metrics",
		Long:  "List what the agents of nodes know: network namespaces, probes, events, metrics.",
		Args:  noSuchCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, l := range []lister{
		{
			use: "entity", aliases: []string{"entities"},
			short: "List the network namespaces: whose they are, addresses, processes",
			long: `List the network namespaces of nodes: the pod or whatever else they belong to, their addresses but
for loopback and link-local, and the oldest of their processes. Without a process there is no address.`,
			header: []string{"NODE", "NAMESPACE", "POD", "NETNS", "ADDRESSES", "PROCESSES"},
			ask:    askEntities, filters: true,
		},
		{
			use: "probe", aliases: []string{"probes"},
			short: "List the probes: whether they run, by which mechanism, what they lost",
			long: `List the probes of agents: whether they run, by which mechanism (variant) each of their hooks does,
whether the self-test at the start saw them work, and what became of their events: handed on, held back
by the rate limit (suppressed), lost on the way.`,
			header: []string{"NODE", "PROBE", "UP", "VERIFIED", "EVENTS", "SUPPRESSED", "LOST", "HOOKS"},
			ask:    askProbes,
		},
		{
			use: "event", aliases: []string{"events"},
			short:  "List the events: how many there have been, when the last was",
			long:   `List the events that there are, and how many of each the agents have seen since they started.`,
			header: []string{"NODE", "EVENT", "COUNT", "LAST"},
			ask:    askEvents,
		},
		{
			use: "metric", aliases: []string{"metrics"},
			short:  "List the metrics: type, unit, series",
			long:   `List the metrics of the next collection pass, which is waited for, and how many series each has.`,
			header: []string{"NODE", "METRIC", "TYPE", "UNIT", "SERIES", "DESCRIPTION"},
			ask:    askMetrics,
		},
	} {
		list.AddCommand(l.command())
	}
	return list
}

// lister is one of the lists.
type lister struct {
	use, short, long string
	aliases          []string
	header           []string
	filters          bool
	ask              func(ctx context.Context, n *node, timeout time.Duration, filter *eventstreamv1.Filter) ([]row, error)
}

// row is an item of a list: as a struct, and as the cells of a table.
type row struct {
	item  any
	cells []string
}

func (l lister) command() *cobra.Command {
	var (
		c      connection
		filter filterFlags
		output string
	)
	cmd := &cobra.Command{
		Use: l.use, Aliases: l.aliases, Short: l.short, Long: l.long, Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			print, ok := map[string]func(io.Writer, []row) error{
				"table": l.printTable, "json": printJSONList, "yaml": printYAMLList,
			}[output]
			if !ok {
				return usagef("--output %q: must be table, json or yaml", output)
			}
			f, err := filter.request()
			if err != nil {
				return err
			}
			nodes, err := c.nodes(cmd.Context())
			if err != nil {
				return err
			}
			rows, err := askAll(cmd.Context(), nodes, func(ctx context.Context, n *node) ([]row, error) { return l.ask(ctx, n, c.timeout, f) })
			if len(rows) > 0 || err == nil {
				err = errors.Join(print(cmd.OutOrStdout(), rows), err)
			}
			return err
		},
	}
	c.addFlags(cmd)
	if l.filters {
		filter.addFlags(cmd, false)
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "`format`: table, json or yaml")
	complete(cmd, "output", "table", "json", "yaml")
	return cmd
}

// askAll asks all nodes at once. What some say is returned even if others fail.
func askAll(ctx context.Context, nodes []*node, ask func(context.Context, *node) ([]row, error)) ([]row, error) {
	var (
		done sync.WaitGroup
		rows = make([][]row, len(nodes))
		errs = make([]error, len(nodes))
	)
	for i, n := range nodes {
		done.Go(func() {
			defer n.connection.Close()
			var err error
			rows[i], err = ask(ctx, n)
			errs[i] = n.explain(err)
		})
	}
	done.Wait()
	return slices.Concat(rows...), errors.Join(errs...)
}

func (l lister) printTable(w io.Writer, rows []row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(l.header, "\t"))
	for _, r := range rows {
		cells := make([]string, len(r.cells))
		for i, cell := range r.cells {
			cells[i] = orDash(strings.Map(printable, cell))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// orDash keeps columns apart for those who cut lines at spaces.
func orDash(cell string) string { return cmp.Or(cell, "-") }

// printable keeps what is told by others from moving the cursor.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
		return '?'
	}
	return r
}

func items(rows []row) []any {
	all := make([]any, 0, len(rows))
	for _, r := range rows {
		all = append(all, r.item)
	}
	return all
}

func printJSONList(w io.Writer, rows []row) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(items(rows))
}

func printYAMLList(w io.Writer, rows []row) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	return errors.Join(e.Encode(items(rows)), e.Close())
}

// receiveAll calls each with the responses of a stream.
func receiveAll[T any](stream grpc.ServerStreamingClient[T], err error, each func(*T) (more bool, err error)) error {
	for more := true; err == nil && more; {
		var r *T
		if r, err = stream.Recv(); err == nil {
			more, err = each(r)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

type entityItem struct {
	Node      string        `json:"node" yaml:"node"`
	Namespace string        `json:"namespace" yaml:"namespace"`
	Pod       string        `json:"pod" yaml:"pod"`
	Netns     string        `json:"netns" yaml:"netns"`
	Inode     int64         `json:"inode" yaml:"inode"`
	Cookie    int64         `json:"cookie,omitempty" yaml:"cookie,omitempty"`
	Name      string        `json:"name,omitempty" yaml:"name,omitempty"`
	PodUID    string        `json:"pod_uid,omitempty" yaml:"pod_uid,omitempty"`
	Container string        `json:"container_id,omitempty" yaml:"container_id,omitempty"`
	Addresses []string      `json:"addresses" yaml:"addresses"`
	Count     int64         `json:"process_count" yaml:"process_count"`
	Processes []processItem `json:"processes" yaml:"processes"`
}

type processItem struct {
	PID  int64  `json:"pid" yaml:"pid"`
	Name string `json:"name" yaml:"name"`
}

// shownProcesses is how many processes the table shows.
const shownProcesses = 3

func askEntities(ctx context.Context, n *node, timeout time.Duration, filter *eventstreamv1.Filter) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	stream, err := n.ListEntities(ctx, &eventstreamv1.ListEntitiesRequest{Types: []string{entity.TypeNamespace}, Filter: filter})
	var rows []row
	err = receiveAll(stream, err, func(r *eventstreamv1.ListEntitiesResponse) (bool, error) {
		var unmarshaler plog.ProtoUnmarshaler
		logs, err := unmarshaler.UnmarshalLogs(r.GetLogs())
		if err != nil {
			return false, err
		}
		for _, rl := range logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, rec := range sl.LogRecords().All() {
					rows = append(rows, entityRow(rl.Resource().Attributes(), rec))
				}
			}
		}
		return true, nil
	})
	return rows, err
}

func entityRow(res pcommon.Map, rec plog.LogRecord) row {
	_, id, description := entity.Parts(rec)
	item := entityItem{
		Node: nodeOf(res), Namespace: text(res, keyLabelNamespace), Pod: text(res, keyLabelPod), Netns: text(res, keyLabelNetns),
		Inode: number(id, entity.KeyNetnsInode), Cookie: number(id, entity.KeyNetnsCookie),
		Name: text(res, eventline.KeyNetnsName), PodUID: text(res, keyPodUID), Container: text(res, eventline.KeyContainerID),
		Addresses: []string{}, Processes: []processItem{},
		Count: number(description, entity.KeyProcessCount),
	}
	for _, a := range slice(description, entity.KeyAddresses).All() {
		item.Addresses = append(item.Addresses, a.AsString())
	}
	for _, p := range slice(description, entity.KeyProcesses).All() {
		if p.Type() == pcommon.ValueTypeMap {
			item.Processes = append(item.Processes, processItem{number(p.Map(), entity.KeyPID), text(p.Map(), entity.KeyExecutable)})
		}
	}
	var processes []string
	for _, p := range item.Processes[:min(len(item.Processes), shownProcesses)] {
		processes = append(processes, fmt.Sprintf("%s(%d)", p.Name, p.PID))
	}
	if more := item.Count - int64(len(processes)); more > 0 {
		processes = append(processes, fmt.Sprintf("and %d more", more))
	}
	return row{item, []string{
		item.Node, item.Namespace, item.Pod, item.Netns, strings.Join(item.Addresses, " "), strings.Join(processes, " "),
	}}
}

// keyPodUID is from the metadata.yaml of the receiver.
const keyPodUID = "k8s.pod.uid"

func number(m pcommon.Map, key string) int64 {
	v, ok := m.Get(key)
	if !ok {
		return 0
	}
	return v.Int()
}

func slice(m pcommon.Map, key string) pcommon.Slice {
	if v, ok := m.Get(key); ok && v.Type() == pcommon.ValueTypeSlice {
		return v.Slice()
	}
	return pcommon.NewSlice()
}

type probeItem struct {
	Node       string            `json:"node" yaml:"node"`
	Probe      string            `json:"probe" yaml:"probe"`
	Up         bool              `json:"up" yaml:"up"`
	Verified   *bool             `json:"verified" yaml:"verified"`
	Events     *uint64           `json:"events,omitempty" yaml:"events,omitempty"`
	Suppressed *uint64           `json:"suppressed,omitempty" yaml:"suppressed,omitempty"`
	Lost       map[string]uint64 `json:"lost,omitempty" yaml:"lost,omitempty"`
	Hooks      []hookItem        `json:"hooks" yaml:"hooks"`
}

type hookItem struct {
	Hook    string `json:"hook" yaml:"hook"`
	Variant string `json:"variant" yaml:"variant"`
	Error   string `json:"error,omitempty" yaml:"error,omitempty"`
}

func askProbes(ctx context.Context, n *node, timeout time.Duration, _ *eventstreamv1.Filter) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := n.Status(ctx, &eventstreamv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	var rows []row
	for _, p := range status.GetProbes() {
		item := probeItem{Node: status.GetNode(), Probe: p.GetName(), Up: p.GetUp(), Verified: p.Verified, Lost: p.GetLost()}
		cells := []string{item.Node, item.Probe, yesNo(&item.Up), yesNo(item.Verified), "", "", "", ""}
		if p.GetHasEvents() {
			item.Events, item.Suppressed = &p.Events, &p.Suppressed
			var lost uint64
			for _, n := range p.GetLost() {
				lost += n
			}
			for i, n := range []uint64{p.GetEvents(), p.GetSuppressed(), lost} {
				cells[4+i] = strconv.FormatUint(n, 10)
			}
		}
		var hooks []string
		for _, h := range p.GetHooks() {
			item.Hooks = append(item.Hooks, hookItem{h.GetName(), h.GetVariant(), h.GetError()})
			hooks = append(hooks, h.GetName()+"="+h.GetVariant())
		}
		cells[7] = strings.Join(hooks, " ")
		rows = append(rows, row{item, cells})
	}
	return rows, nil
}

func yesNo(b *bool) string {
	switch {
	case b == nil:
		return "-"
	case *b:
		return "yes"
	}
	return "no"
}

type eventItem struct {
	Node  string     `json:"node" yaml:"node"`
	Event string     `json:"event" yaml:"event"`
	Count uint64     `json:"count" yaml:"count"`
	Last  *time.Time `json:"last" yaml:"last"`
}

func askEvents(ctx context.Context, n *node, timeout time.Duration, _ *eventstreamv1.Filter) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	status, err := n.Status(ctx, &eventstreamv1.StatusRequest{})
	if err != nil {
		return nil, err
	}
	items := map[string]eventItem{}
	for _, name := range eventNames() {
		items[name] = eventItem{Node: status.GetNode(), Event: name}
	}
	for _, e := range status.GetEvents() {
		last := e.GetLast().AsTime()
		items[e.GetName()] = eventItem{status.GetNode(), e.GetName(), e.GetCount(), &last}
	}
	var rows []row
	for _, name := range slices.Sorted(maps.Keys(items)) {
		item, last := items[name], "-"
		if item.Last != nil {
			last = item.Last.Local().Format(time.DateTime)
		}
		rows = append(rows, row{item, []string{item.Node, name, strconv.FormatUint(item.Count, 10), last}})
	}
	return rows, nil
}

// eventNames returns the events that this version knows: each of them is a key of the receiver's configuration.
func eventNames() []string {
	events, _ := reflect.TypeFor[netexporterreceiver.Config]().FieldByName("Events")
	var names []string
	for field := range events.Type.Fields() {
		if name := field.Tag.Get("mapstructure"); name != "" {
			names = append(names, name)
		}
	}
	return names
}

type metricItem struct {
	Node        string `json:"node" yaml:"node"`
	Metric      string `json:"metric" yaml:"metric"`
	Type        string `json:"type" yaml:"type"`
	Unit        string `json:"unit" yaml:"unit"`
	Series      int    `json:"series" yaml:"series"`
	Description string `json:"description" yaml:"description"`
}

func askMetrics(ctx context.Context, n *node, timeout time.Duration, _ *eventstreamv1.Filter) ([]row, error) {
	items := map[string]*metricItem{}
	err := watchPasses(ctx, n, timeout, &eventstreamv1.WatchMetricsRequest{}, func(res pcommon.Map, m pmetric.Metric) {
		item := items[m.Name()]
		if item == nil {
			item = &metricItem{Node: nodeOf(res), Metric: m.Name(), Type: strings.ToLower(m.Type().String()), Unit: m.Unit(), Description: m.Description()}
			items[m.Name()] = item
		}
		item.Series += points(m)
	}, func() error { return errEnough })
	if !errors.Is(err, errEnough) {
		return nil, err
	}
	var rows []row
	for _, item := range slices.SortedFunc(maps.Values(items), func(a, b *metricItem) int { return cmp.Compare(a.Metric, b.Metric) }) {
		rows = append(rows, row{item, []string{item.Node, item.Metric, item.Type, item.Unit, strconv.Itoa(item.Series), item.Description}})
	}
	return rows, nil
}

// points returns how many series a metric has.
func points(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	}
	return 0
}
