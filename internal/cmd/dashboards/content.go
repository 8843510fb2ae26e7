// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// Labels that the variables choose, and the legend that is documented for them.
const (
	ofPod   = `{node=~"$node",namespace=~"$namespace",pod=~"$pod"}`
	ofNode  = `{node=~"$node"}`
	ofAgent = `{instance=~"$instance"}`
	pod     = "{{namespace}}/{{pod}}/{{node}}"
	node    = "{{node}}"
	agent   = "{{instance}}"
	most    = "20" // series of pods in a panel
)

// rate is the rate of a counter of pods, those with the highest.
func rate(metric string) string {
	return "topk(" + most + ", sum by (namespace, pod, node) (rate(inspector_pod_" + metric + ofPod + "[$__rate_interval])))"
}

// gauge is a gauge of pods, those with the highest.
func gauge(metric string) string {
	return "topk(" + most + ", sum by (namespace, pod, node) (inspector_pod_" + metric + ofPod + "))"
}

// by is the rate of a counter of pods by labels of its own.
func by(metric, labels string) string {
	return "topk(" + most + ", sum by (namespace, pod, node, " + labels + ") (rate(inspector_pod_" + metric + ofPod + "[$__rate_interval])))"
}

// one has a query for each of several metrics, told apart by their names without a prefix.
func one(expr func(string) string, prefix string, names ...string) (queries []query) {
	for _, name := range names {
		queries = append(queries, query{expr(prefix + name), name + " " + pod})
	}
	return queries
}

func ofNodes(metric string) string {
	return "sum by (node) (rate(inspector_node_" + metric + ofNode + "[$__rate_interval]))"
}

func own(metric, labels string) string {
	return "sum by (instance, " + labels + ") (rate(otelcol_" + metric + ofAgent + "[$__rate_interval]))"
}

func quantile(metric, labels string) string {
	return "histogram_quantile(0.99, sum by (node, le, " + labels + ") (rate(inspector_" + metric + "_bucket" + ofNode + "[$__rate_interval])))"
}

// events is the panel of event lines that have one of the words.
func events(id int, words ...string) panel {
	return panel{
		id: id, title: "Events", kind: logs, description: "Lines of docs/events.md, from Loki.",
		// Loki wants one matcher that an empty label does not meet. What is of the node has no namespace and no pod.
		queries: []query{{expr: `{node=~".+",node=~"$node",namespace=~"($namespace)|"} |~ "` + strings.Join(words, "|") +
			`" |~ " pod=($pod) | netns=($pod)$|type=NETSOFTIRQ|type=VIRTCMD"`}},
	}
}

const optIn = " Only where the probe is switched on: docs/configuration.md."

func dashboards() []dashboard {
	ofPods := []variable{
		{"node", "Node", "label_values(inspector_node_softnetprocessed, node)"},
		{"namespace", "Namespace", `label_values(inspector_pod_tcpoutrsts{node=~"$node"}, namespace)`},
		{"pod", "Pod", `label_values(inspector_pod_tcpoutrsts{node=~"$node",namespace=~"$namespace"}, pod)`},
	}
	return []dashboard{
		{
			name: "overview", title: "Nodes", description: "All nodes: where to look first", variables: ofPods[:1], runbook: "where-to-start",
			rows: []row{
				{"Now", []panel{
					{id: 1, title: "Nodes that report", unit: "none", kind: stat, queries: []query{{"count(count by (node) (inspector_node_softnetprocessed" + ofNode + "))", ""}}},
					{id: 2, title: "Namespaces", unit: "none", kind: stat, queries: []query{{"count(inspector_pod_tcpoutrsts" + ofNode + ")", ""}}},
					{id: 3, title: "Packets lost", unit: "pps", kind: stat, queries: []query{{"sum(node:inspector_pod_packetloss_abnormal:rate5m" + ofNode + ")", ""}}},
					{id: 4, title: "Connections now established", unit: "none", kind: stat, queries: []query{{"sum(inspector_pod_tcpsummarytcpestablishedconn" + ofNode + ")", ""}}},
				}},
				{"Alerts", []panel{
					{id: 5, title: "Alerts that fire", unit: "none", kind: table, queries: []query{{`sum by (alertname, severity, node, namespace, pod, instance) (ALERTS{alertstate="firing",alertname=~"(Pod|Node|Netexporter).*"})`, ""}}},
				}},
				{"Nodes", []panel{
					{id: 6, title: "Packets lost", unit: "pps", queries: []query{{"node:inspector_pod_packetloss_abnormal:rate5m" + ofNode, node}}, runbook: "packets-lost"},
					{id: 7, title: "Connections reset", unit: "cps", queries: []query{{"sum by (node) (rate(inspector_pod_tcpestabresets" + ofNode + "[$__rate_interval]))", node}}, runbook: "tcp-resets"},
					{id: 8, title: "Segments retransmitted", unit: "pps", queries: []query{{"sum by (node) (rate(inspector_pod_tcpretranssegs" + ofNode + "[$__rate_interval]))", node}}, runbook: "ingress-fails"},
					{id: 9, title: "Wait of soft interrupts, 99th percentile", unit: "s", description: "Of the network." + optIn, queries: []query{{"node_vector:inspector_pod_netsoftirqsched:p99_rate5m" + ofNode, "{{node}} {{vector}}"}}, runbook: "latency-and-jitter"},
					{id: 10, title: "Received", unit: "binBps", queries: []query{{"sum by (node) (rate(inspector_pod_netdevrxbytes" + ofNode + "[$__rate_interval]))", node}}},
					{id: 11, title: "Sent", unit: "binBps", queries: []query{{"sum by (node) (rate(inspector_pod_netdevtxbytes" + ofNode + "[$__rate_interval]))", node}}},
				}},
				{"Pods with most trouble", []panel{
					{id: 12, title: "Datagrams not delivered or not sent", unit: "pps", queries: []query{{"topk(10, namespace_pod_node:inspector_pod_udperrors:rate5m" + ofNode + " > 0)", pod}}, runbook: "dns-time-outs"},
					{id: 13, title: "Connections aborted", unit: "cps", queries: []query{{"topk(10, namespace_pod_node:inspector_pod_tcpaborts:rate5m" + ofNode + " > 0)", pod}}, runbook: "tcp-resets"},
					{id: 14, title: "Share of packets sent twice", unit: "percentunit", queries: []query{{"topk(10, namespace_pod_node:inspector_pod_tcpretranssegs:ratio_rate5m" + ofNode + " > 0)", pod}}, runbook: "ingress-fails"},
				}},
			},
		},
		{
			name: "pod", title: "Pod", description: "All of one pod", variables: ofPods, runbook: "where-to-start",
			rows: []row{
				{"Traffic", []panel{
					{id: 1, title: "Bytes", unit: "binBps", queries: one(rate, "netdev", "rxbytes", "txbytes")},
					{id: 2, title: "Packets", unit: "pps", queries: one(rate, "netdev", "rxpackets", "txpackets")},
					{id: 3, title: "Interface errors and drops", unit: "pps", queries: one(rate, "netdev", "rxdropped", "txdropped", "rxerrors", "txerrors"), runbook: "ingress-fails"},
				}},
				{"TCP", []panel{
					{id: 4, title: "Connections", unit: "none", queries: one(gauge, "tcpsummarytcp", "establishedconn", "timewaitconn")},
					{id: 5, title: "Connections opened", unit: "cps", queries: one(rate, "tcp", "activeopens", "passiveopens")},
					{id: 6, title: "Bytes in queues", unit: "bytes", queries: one(gauge, "tcpsummarytcp", "rxqueue", "txqueue"), runbook: "ingress-is-slow"},
					{id: 7, title: "Retransmissions", unit: "pps", queries: one(rate, "tcp", "retranssegs", "exttcptimeouts", "exttcpfastretrans", "exttcpsynretrans"), runbook: "ingress-fails"},
					{id: 8, title: "Resets", unit: "cps", queries: one(rate, "tcp", "estabresets", "outrsts"), runbook: "tcp-resets"},
					{id: 9, title: "Accept queues", unit: "none", queries: one(gauge, "tcplisten", "acceptqueue", "acceptqueuelimit", "acceptqueuefull"), runbook: "ingress-fails"},
				}},
				{"UDP and losses", []panel{
					{id: 10, title: "Datagrams", unit: "pps", queries: one(rate, "udp", "indatagrams", "outdatagrams")},
					{id: 11, title: "Datagrams not delivered or not sent", unit: "pps", queries: one(rate, "udp", "noports", "inerrors", "sndbuferrors"), runbook: "dns-time-outs"},
					{id: 12, title: "Packets lost, by reason", unit: "pps", queries: []query{{by("packetloss_by_reason", "reason"), "{{reason}} " + pod}}, runbook: "packets-lost"},
				}},
				{"Processes", []panel{
					{id: 13, title: "File descriptors", unit: "none", queries: one(gauge, "fdopen", "fd", "socket")},
					{id: 14, title: "Reads and writes", unit: "ops", queries: one(rate, "io", "ioreadsyscall", "iowritesyscall")},
					{id: 15, title: "Connection tracking", unit: "none", queries: []query{{gauge("conntrackentries"), "entries " + pod}}},
				}},
				{"Events", []panel{events(16, "type=")}},
			},
		},
		{
			name: "drops", title: "Packets lost", description: "Where the kernel drops packets, and why", variables: ofPods, runbook: "packets-lost",
			rows: []row{
				{"Pods", []panel{
					{id: 1, title: "Packets lost", unit: "pps", description: "Those that were not at fault themselves.", queries: []query{{rate("packetloss_abnormal"), pod}}},
					{id: 2, title: "By reason", unit: "pps", description: "The kernel's names, all drops.", queries: []query{{by("packetloss_by_reason", "reason"), "{{reason}} " + pod}}},
					{id: 3, title: "At the interfaces", unit: "pps", queries: one(rate, "netdev", "rxdropped", "txdropped")},
				}},
				{"Nodes", []panel{
					{id: 4, title: "By reason", unit: "pps", queries: []query{{"sum by (node, reason) (rate(inspector_pod_packetloss_by_reason" + ofNode + "[$__rate_interval]))", "{{reason}} " + node}}},
					{id: 5, title: "Before the network layer", unit: "pps", description: "Backlogs of the CPUs.", queries: []query{{ofNodes("softnetdropped"), node}}, runbook: "latency-and-jitter"},
					{id: 6, title: "Receive queues of TCP", unit: "pps", queries: []query{{rate("tcpexttcprcvqdrop"), pod}}},
				}},
				{"Events", []panel{events(7, "type=PACKETLOSS")}},
			},
		},
		{
			name: "resets", title: "TCP resets", description: "Who resets whose connections, and why", variables: ofPods, runbook: "tcp-resets",
			rows: []row{
				{"Counters of the kernel", []panel{
					{id: 1, title: "Established connections reset", unit: "cps", queries: []query{{rate("tcpestabresets"), pod}}},
					{id: 2, title: "Aborted, by cause", unit: "cps", queries: one(rate, "tcpexttcpaborton", "close", "data", "linger", "memory", "timeout")},
					{id: 3, title: "Acknowledgments kept back", unit: "pps", description: "Segments that fit no window came too fast.", queries: one(rate, "tcpexttcpackskipped", "challenge", "finwait2", "paws", "seq", "synrecv", "timewait")},
				}},
				{"Resets", []panel{
					{id: 4, title: "By type and reason", unit: "pps", queries: []query{{by("tcpreset", "type, reason"), "{{type}} {{reason}} " + pod}}},
					{id: 5, title: "Sent", unit: "pps", queries: []query{{rate("tcpoutrsts"), pod}}},
					{id: 6, title: "Segments in TIME_WAIT", unit: "pps", queries: []query{{rate("tcptwrcv"), pod}}},
				}},
				{"Events", []panel{events(7, "type=TCPRESET_", "type=TCP_RCV_RST_", "type=TCP_TW_RCV")}},
			},
		},
		{
			name: "dns", title: "DNS and UDP", description: "Why answers time out", variables: ofPods, runbook: "dns-time-outs",
			rows: []row{
				{"What goes wrong", []panel{
					{id: 1, title: "Datagrams without a socket", unit: "pps", description: "Answers that come after the client gave up, and requests that nobody serves.", queries: []query{{rate("udpnoports"), pod}}},
					{id: 2, title: "Receive buffer full", unit: "pps", queries: []query{{rate("udprcvbuferrors"), pod}}},
					{id: 3, title: "Not sent", unit: "pps", queries: []query{{rate("udpsndbuferrors"), pod}}},
					{id: 4, title: "Damaged", unit: "pps", queries: []query{{rate("udpincsumerrors"), pod}}},
					{id: 5, title: "Errors of reception", unit: "pps", description: "Full buffers and damages are among them.", queries: []query{{rate("udpinerrors"), pod}}},
					{id: 6, title: "Packets lost in UDP's functions", unit: "pps", queries: []query{{by("packetloss_by_reason", "reason"), "{{reason}} " + pod}}, runbook: "packets-lost"},
				}},
				{"Traffic", []panel{
					{id: 7, title: "Sent", unit: "pps", queries: []query{{rate("udpoutdatagrams"), pod}}},
					{id: 8, title: "Received", unit: "pps", queries: []query{{rate("udpindatagrams"), pod}}},
				}},
				{"Events", []panel{events(9, "type=PACKETLOSS.* protocol=UDP")}},
			},
		},
		{
			name: "ingress", title: "Ingress", description: "499, 502, 503, 504, and slow", variables: ofPods, runbook: "ingress-fails",
			rows: []row{
				{"Fails", []panel{
					{id: 1, title: "New connections dropped", unit: "cps", queries: one(rate, "tcpextlisten", "drops", "overflows")},
					{id: 2, title: "Accept queues", unit: "none", queries: one(gauge, "tcplisten", "acceptqueue", "acceptqueuelimit", "acceptqueuefull")},
					{id: 3, title: "SYNs sent again", unit: "pps", queries: []query{{rate("tcpexttcpsynretrans"), pod}}},
					{id: 4, title: "Share of packets sent twice", unit: "percentunit", queries: []query{{"topk(" + most + ", namespace_pod_node:inspector_pod_tcpretranssegs:ratio_rate5m" + ofPod + ")", pod}}},
					{id: 5, title: "Interface drops", unit: "pps", queries: one(rate, "netdev", "rxdropped", "txdropped")},
					{id: 6, title: "Connection tracking", unit: "pps", queries: one(rate, "conntrack", "drop", "invalid")},
				}},
				{"Slow", []panel{
					{id: 7, title: "Bytes unread", unit: "bytes", description: "High for long: the process does not get to run, or hangs.", queries: []query{{gauge("tcpsummarytcprxqueue"), pod}}, runbook: "ingress-is-slow"},
					{id: 8, title: "Retransmission time-outs", unit: "cps", queries: []query{{rate("tcpexttcptimeouts"), pod}}, runbook: "ingress-is-slow"},
					{id: 9, title: "Retransmissions that failed", unit: "pps", queries: []query{{rate("tcpexttcpretransfail"), pod}}, runbook: "ingress-is-slow"},
					{id: 10, title: "Connections", unit: "none", queries: one(gauge, "tcpsummarytcp", "establishedconn", "timewaitconn"), runbook: "ingress-is-slow"},
					{id: 11, title: "Bytes not acknowledged or not sent", unit: "bytes", queries: []query{{gauge("tcpsummarytcptxqueue"), pod}}, runbook: "ingress-is-slow"},
					{id: 12, title: "Connections opened", unit: "cps", queries: one(rate, "tcp", "activeopens", "passiveopens")},
				}},
				{"Events", []panel{events(13, "type=TCPRESET_", "type=TCP_RCV_RST_", "type=PACKETLOSS", "type=SOCKETLAT_")}},
			},
		},
		{
			name: "jitter", title: "Latency and jitter", description: "What waits, where and for how long", variables: ofPods, runbook: "latency-and-jitter",
			rows: []row{
				{"Node", []panel{
					{id: 1, title: "Wait of soft interrupts, 99th percentile", unit: "s", description: "From raising until running." + optIn, queries: []query{{quantile("pod_netsoftirqsched", "vector"), "{{node}} {{vector}}"}}},
					{id: 2, title: "Run of soft interrupts, 99th percentile", unit: "s", description: optIn[1:], queries: []query{{quantile("pod_netsoftirq", "vector"), "{{node}} {{vector}}"}}},
					{id: 3, title: "Soft interrupts over 100 ms", unit: "cps", description: optIn[1:], queries: []query{
						{"sum by (node, vector) (rate(inspector_pod_net_softirq_schedslow100ms" + ofNode + "[$__rate_interval]))", "waited {{node}} {{vector}}"},
						{"sum by (node, vector) (rate(inspector_pod_net_softirq_executeslow100ms" + ofNode + "[$__rate_interval]))", "ran {{node}} {{vector}}"},
					}},
					{id: 4, title: "Backlogs of the CPUs", unit: "pps", queries: []query{{ofNodes("softnetdropped"), "dropped {{node}}"}, {ofNodes("softnettimesqueeze"), "out of time {{node}}"}, {ofNodes("softnetprocessed"), "processed {{node}}"}}},
					{id: 5, title: "Commands to virtio-net devices, by level", unit: "cps", description: "How many took up to so many seconds; level 15 is 0.033, level 18 is 0.262." + optIn, queries: []query{{"sum by (node, le) (rate(inspector_node_virtsendcmdlat_bucket" + ofNode + "[$__rate_interval]))", "{{node}} {{le}}"}}},
					{id: 10, title: "Slow packets and sockets, 99th percentile", unit: "s", description: "Of those over two ticks of the kernel's clock." + optIn, queries: []query{
						{quantile("node_socketlatency", "type"), "socket {{type}} {{node}}"},
						{quantile("node_kernellatency", "type"), "kernel {{type}} {{node}}"},
						{quantile("node_netiftxlat", "type"), "{{type}} {{node}}"},
					}},
				}},
				{"Pods", []panel{
					{id: 6, title: "Sockets over 100 ms", unit: "cps", description: optIn[1:], queries: one(rate, "socketlatency", "read100ms", "write100ms")},
					{id: 7, title: "Packets over 100 ms in the kernel", unit: "pps", description: optIn[1:], queries: one(rate, "kernellatency_", "rxslow100ms", "txslow100ms")},
					{id: 8, title: "Packets over 100 ms in a queue", unit: "pps", description: optIn[1:], queries: one(rate, "netiftxlat_", "qdiscslow100ms", "xmitslow100ms")},
					{id: 9, title: "Retransmission time-outs", unit: "cps", queries: []query{{rate("tcpexttcptimeouts"), pod}}, runbook: "ingress-is-slow"},
					{id: 11, title: "Bytes read and written", unit: "binBps", queries: one(rate, "io", "ioreadbytes", "iowritebytes")},
					{id: 12, title: "Bytes in queues", unit: "bytes", queries: one(gauge, "tcpsummarytcp", "rxqueue", "txqueue"), runbook: "ingress-is-slow"},
				}},
				{"Events", []panel{events(13, "type=NETSOFTIRQ_", "type=SOCKETLAT_", "type=KERNELLAT_", "type=NETIFTXLAT_", "type=VIRTCMDEXECUTE")}},
			},
		},
		{
			name: "agent", title: "Agents", description: "Whether the agents see what they must", runbook: "the-agent-itself",
			variables: []variable{{"instance", "Agent", `label_values(up{job=~"netexporter.*"}, instance)`}},
			rows: []row{
				{"Sight", []panel{
					{id: 1, title: "Can be scraped", unit: "none", kind: history, queries: []query{{`up{job=~"netexporter.*",instance=~"$instance"}`, "{{job}} " + agent}}},
					{id: 2, title: "Age of the last collection pass", unit: "s", queries: []query{{"time() - timestamp(inspector_node_softnetprocessed" + ofAgent + ")", agent}}},
					{id: 3, title: "Probes that run", unit: "none", kind: history, queries: []query{{"min by (probe, instance) (otelcol_netexporter_probe_up" + ofAgent + ")", "{{probe}} " + agent}}},
					{id: 4, title: "Probes that passed the self-test", unit: "none", kind: history, description: "With `self_test: true`.", queries: []query{{"min by (probe, instance) (otelcol_netexporter_probe_verified" + ofAgent + ")", "{{probe}} " + agent}}},
					{id: 5, title: "Heartbeats", unit: "cps", description: "With `self_test: true`.", queries: []query{{own("netexporter_heartbeats", "probe, outcome"), "{{outcome}} {{probe}} " + agent}}},
					{id: 12, title: "How hooks run", unit: "none", kind: table, queries: []query{{"min by (instance, probe, hook, variant) (otelcol_netexporter_probe_hook" + ofAgent + ")", ""}}},
				}},
				{"Loss", []panel{
					{id: 6, title: "Events lost, by hop", unit: "cps", queries: []query{{own("netexporter_events_lost", "probe, hop"), "{{hop}} {{probe}} " + agent}}},
					{id: 7, title: "Events held back", unit: "cps", description: "By the limit events_per_second. Metrics count them all.", queries: []query{{own("netexporter_events_suppressed", "probe"), "{{probe}} " + agent}}},
					{id: 8, title: "Series", unit: "none", queries: []query{{"otelcol_netexporter_series" + ofAgent, "{{state}} " + agent}}},
					{id: 9, title: "Delivery", unit: "cps", description: "Of events, by exporter.", queries: []query{
						{own("exporter_sent_log_records", "exporter"), "sent {{exporter}} " + agent},
						{own("exporter_send_failed_log_records", "exporter"), "failed {{exporter}} " + agent},
						{own("exporter_enqueue_failed_log_records", "exporter"), "no room {{exporter}} " + agent},
					}},
					{id: 10, title: "Queues", unit: "percentunit", queries: []query{{"otelcol_exporter_queue_size" + ofAgent + " / otelcol_exporter_queue_capacity" + ofAgent, "{{exporter}} {{data_type}} " + agent}}},
					{id: 11, title: "Refused", unit: "cps", queries: []query{
						{own("receiver_refused_metric_points", "receiver"), "metric points " + agent}, {own("receiver_refused_log_records", "receiver"), "events " + agent},
					}},
				}},
				{"Cost", []panel{
					{id: 13, title: "CPU", unit: "none", description: "Cores.", queries: []query{{"sum by (instance) (rate(otelcol_process_cpu_seconds" + ofAgent + "[$__rate_interval]))", agent}}},
					{id: 14, title: "Memory", unit: "bytes", queries: []query{{"otelcol_process_memory_rss" + ofAgent, agent}}},
					{id: 15, title: "Events", unit: "cps", queries: []query{{own("netexporter_events", "probe"), "{{probe}} " + agent}}},
				}},
			},
		},
	}
}
