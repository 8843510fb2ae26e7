// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package probes

import (
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// TCPExt counts what Linux adds to the TCP-MIB: aborts, overflows, skipped ACKs, time-outs.
func TCPExt() probe.Definition {
	return probe.Definition{
		Name: "tcpext",
		Counters: []probe.Counter{
			linuxMIB("LISTENDROPS", "ListenDrops", (*metadata.MetricsBuilder).RecordInspectorPodTcpextlistendropsDataPoint),
			linuxMIB("LISTENOVERFLOWS", "ListenOverflows", (*metadata.MetricsBuilder).RecordInspectorPodTcpextlistenoverflowsDataPoint),
			linuxMIB("PAWSESTABREJECTED", "PAWSEstab", (*metadata.MetricsBuilder).RecordInspectorPodTcpextpawsestabrejectedDataPoint),
			linuxMIB("TCPABORTONCLOSE", "TCPAbortOnClose", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpabortoncloseDataPoint),
			linuxMIB("TCPABORTONDATA", "TCPAbortOnData", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpabortondataDataPoint),
			linuxMIB("TCPABORTONLINGER", "TCPAbortOnLinger", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpabortonlingerDataPoint),
			linuxMIB("TCPABORTONMEMORY", "TCPAbortOnMemory", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpabortonmemoryDataPoint),
			linuxMIB("TCPABORTONTIMEOUT", "TCPAbortOnTimeout", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpabortontimeoutDataPoint),
			linuxMIB("TCPACKSKIPPEDCHALLENGE", "TCPACKSkippedChallenge", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedchallengeDataPoint),
			linuxMIB("TCPACKSKIPPEDFINWAIT2", "TCPACKSkippedFinWait2", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedfinwait2DataPoint),
			linuxMIB("TCPACKSKIPPEDPAWS", "TCPACKSkippedPAWS", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedpawsDataPoint),
			linuxMIB("TCPACKSKIPPEDSEQ", "TCPACKSkippedSeq", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedseqDataPoint),
			linuxMIB("TCPACKSKIPPEDSYNRECV", "TCPACKSkippedSynRecv", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedsynrecvDataPoint),
			linuxMIB("TCPACKSKIPPEDTIMEWAIT", "TCPACKSkippedTimeWait", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpackskippedtimewaitDataPoint),
			linuxMIB("TCPFASTRETRANS", "TCPFastRetrans", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpfastretransDataPoint),
			linuxMIB("TCPRCVQDROP", "TCPRcvQDrop", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcprcvqdropDataPoint),
			linuxMIB("TCPRETRANSFAIL", "TCPRetransFail", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpretransfailDataPoint),
			linuxMIB("TCPSYNRETRANS", "TCPSynRetrans", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcpsynretransDataPoint),
			linuxMIB("TCPTIMEOUTS", "TCPTimeouts", (*metadata.MetricsBuilder).RecordInspectorPodTcpexttcptimeoutsDataPoint),
		},
	}
}
