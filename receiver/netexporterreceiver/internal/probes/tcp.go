// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCP counts what RFC 4022 (TCP-MIB) has of a namespace: connections opened, reset and retransmitted.
func TCP() probe.Definition {
	return probe.Definition{
		Name: "tcp",
		Counters: []probe.Counter{
			tcpMIB("ACTIVEOPENS", "ActiveOpens", (*metadata.MetricsBuilder).RecordInspectorPodTcpactiveopenesDataPoint, (*metadata.MetricsBuilder).RecordInspectorPodTcpactiveopensDataPoint),
			tcpMIB("CURRESTAB", "CurrEstab", (*metadata.MetricsBuilder).RecordInspectorPodTcpcurrestabDataPoint),
			tcpMIB("ESTABRESETS", "EstabResets", (*metadata.MetricsBuilder).RecordInspectorPodTcpestabresetsDataPoint),
			tcpMIB("OUTRSTS", "OutRsts", (*metadata.MetricsBuilder).RecordInspectorPodTcpoutrstsDataPoint),
			tcpMIB("PASSIVEOPENS", "PassiveOpens", (*metadata.MetricsBuilder).RecordInspectorPodTcppassiveopenesDataPoint, (*metadata.MetricsBuilder).RecordInspectorPodTcppassiveopensDataPoint),
			tcpMIB("RETRANSSEGS", "RetransSegs", (*metadata.MetricsBuilder).RecordInspectorPodTcpretranssegsDataPoint),
		},
	}
}
