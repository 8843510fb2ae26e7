// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/probe"
)

// only runs the given probes and no other.
func only(probes map[string]probe.Config) func(*Config) {
	return func(c *Config) { c.DefaultProbes, c.Probes = false, probes }
}

func TestNetSoftirqCounts(t *testing.T) {
	enabled := true
	cfg := probe.DefaultConfig()
	cfg.Enabled = &enabled
	r := start(t, only(map[string]probe.Config{"net_softirq": cfg}))
	p := nettest.New(t)
	before := r.pass(t)
	p.UDPToClosedPort(t, nettest.IPv4, 1000, false)
	after := r.pass(t)
	t.Log(before[0], after[0])
	assert.Greater(t, after[0]["inspector_pod_netsoftirq_count{NET_RX}"], before[0]["inspector_pod_netsoftirq_count{NET_RX}"])
}
