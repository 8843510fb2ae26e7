// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/entity"
	"github.com/netexporter/netexporter/internal/nettest"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// entityRecords returns the records of entities of one type, by their ids.
func entityRecords(logs plog.Logs, entityType string) map[string]entityRecord {
	records := map[string]entityRecord{}
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, rec := range sl.LogRecords().All() {
				of, id, description := entity.Parts(rec)
				if !entity.Is(rec) || of != entityType {
					continue
				}
				key := fmt.Sprint(id.AsRaw()[entity.KeyNetnsInode])
				if entityType == entity.TypeProbe {
					key = fmt.Sprint(id.AsRaw()[entity.KeyProbe])
				}
				records[key] = entityRecord{rec.EventName(), rl.Resource().Attributes().AsRaw(), description.AsRaw()}
			}
		}
	}
	return records
}

type entityRecord struct {
	event                 string
	resource, description map[string]any
}

// reporter returns the entities of a receiver that tells nothing by itself.
func (r *rig) reporter() *entities { return newEntities(r.agent, r.agent.running) }

func TestEntitiesOfNamespaces(t *testing.T) {
	r := startDefault(t)
	e := r.reporter()
	now := time.Now()
	e.now = func() time.Time { return now }
	tell := func() map[string]entityRecord {
		t.Helper()
		logs, err := e.logs(0) // each time anew
		require.NoError(t, err)
		return entityRecords(logs, entity.TypeNamespace)
	}

	p, processes := r.pair(t), 0
	if !r.agent.walks(t) {
		processes++ // or else it would not be seen
	}
	inode := fmt.Sprint(p.A.Inode)
	first := tell()
	require.Contains(t, first, inode)
	assert.Equal(t, entity.EventState, first[inode].event)
	assert.Equal(t, p.A.Name, first[inode].resource["network.netns.name"])
	assert.EqualValues(t, processes, first[inode].description[entity.KeyProcessCount])
	own, err := netns.Inode("/proc/self/ns/net")
	require.NoError(t, err)
	assert.Contains(t, first, fmt.Sprint(own))

	assert.NotContains(t, tell(), inode, "nothing has changed")

	pid := p.A.Hold(t)
	held := tell()
	require.Contains(t, held, inode, "a process has come")
	assert.EqualValues(t, processes+1, held[inode].description[entity.KeyProcessCount])
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	require.NoError(t, err)
	assert.Contains(t, held[inode].description[entity.KeyProcesses], map[string]any{entity.KeyPID: int64(pid), entity.KeyExecutable: string(comm[:len(comm)-1])})
	assert.Len(t, held[inode].description[entity.KeyProcesses], processes+1)
	assert.ElementsMatch(t, []any{p.A.Addresses[nettest.IPv4].String(), p.A.Addresses[nettest.IPv6].String()}, held[inode].description[entity.KeyAddresses])

	now = now.Add(entityInterval)
	assert.Contains(t, tell(), inode, "all of it once a minute")

	var n *nettest.Namespace
	t.Run("comes and goes", func(t *testing.T) {
		n = nettest.NewNamespace(t)
		r.see(t, n)
		require.Contains(t, tell(), fmt.Sprint(n.Inode))
	})
	var gone map[string]entityRecord
	require.Eventually(t, func() bool { // the kernel frees it in its own time
		gone = tell()
		return gone[fmt.Sprint(n.Inode)].event == entity.EventDelete
	}, time.Minute, 10*time.Millisecond)
	assert.Contains(t, gone[fmt.Sprint(n.Inode)].resource, "network.netns.inode")
	assert.Empty(t, gone[fmt.Sprint(n.Inode)].description)
}

func TestEntitiesOfProbes(t *testing.T) {
	r := startDefault(t)
	e := r.reporter()
	tell := func() map[string]entityRecord {
		t.Helper()
		logs, err := e.logs(time.Hour)
		require.NoError(t, err)
		return entityRecords(logs, entity.TypeProbe)
	}
	first := tell()
	require.Contains(t, first, "tcpreset")
	require.Contains(t, first, "udp")
	assert.Equal(t, true, first["tcpreset"].description[entity.KeyUp])
	assert.NotContains(t, first["tcpreset"].description, entity.KeyVerified)
	assert.NotContains(t, first["udp"].description, entity.KeyEvents)
	hooks := first["tcpreset"].description[entity.KeyHooks].([]any)
	require.NotEmpty(t, hooks)
	assert.Contains(t, hooks[0], entity.KeyVariant)
	assert.Contains(t, first["tcpreset"].resource, "host.name")
	assert.NotContains(t, first["tcpreset"].resource, "network.netns.inode")

	before := first["tcpreset"].description[entity.KeyEvents].(int64)
	p := r.pair(t)
	p.ConnectClosedPort(t, nettest.IPv4)
	require.Eventually(t, func() bool {
		again, told := tell()["tcpreset"]
		return told && again.description[entity.KeyEvents].(int64) > before
	}, time.Minute, 10*time.Millisecond)
	assert.NotContains(t, tell(), "udp", "nothing has changed")
}

// What the pipeline gets, without a pass ever.
func TestEntitiesAreSent(t *testing.T) {
	r := start(t, func(c *Config) { c.Entities, c.DefaultProbes = true, false })
	require.Eventually(t, func() bool {
		for _, logs := range r.logs.AllLogs() {
			if len(entityRecords(logs, entity.TypeNamespace)) > 0 && len(entityRecords(logs, entity.TypeProbe)) > 0 {
				return true
			}
		}
		return false
	}, time.Minute, 10*time.Millisecond)
}
