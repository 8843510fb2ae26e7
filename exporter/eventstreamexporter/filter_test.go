// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventstreamexporter

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
)

func TestFilter(t *testing.T) {
	logs := eventOf("TCPRESET_PROCESS", "", func(res, attrs pcommon.Map) {
		require.NoError(t, res.FromRaw(map[string]any{"pod": "web", "namespace": "shop", "netns": "ns0", "network.netns.inode": 4026531993}))
		require.NoError(t, attrs.FromRaw(map[string]any{
			"event.name": "TCPRESET_PROCESS", "source.address": "10.0.0.1", "source.port": 443, "destination.address": "fd00::2", "destination.port": 33488,
		}))
	})
	rl := logs.ResourceLogs().At(0)
	sl := rl.ScopeLogs().At(0)
	e, err := newEvent(&plog.ProtoMarshaler{}, whereOf(rl.Resource().Attributes()), rl, sl, sl.LogRecords().At(0))
	require.NoError(t, err)
	type f = eventstreamv1.Filter
	for name, tt := range map[string]struct {
		filter *f
		want   bool
	}{
		"none":                {nil, true},
		"event":               {&f{Events: []string{"TCPRESET_PROCESS"}}, true},
		"event in lower case": {&f{Events: []string{"tcpreset_process"}}, true},
		"event by other name": {&f{Events: []string{"PACKETLOSS", "TCP_SEND_RST"}}, true},
		"another event":       {&f{Events: []string{"PACKETLOSS", "TCP_SEND_RST_NOSock"}}, false},
		"pod":                 {&f{Pods: []string{"db", "web"}}, true},
		"another pod":         {&f{Pods: []string{"db"}}, false},
		"namespace":           {&f{Namespaces: []string{"shop"}}, true},
		"another namespace":   {&f{Namespaces: []string{"kube-system"}}, false},
		"host":                {&f{Netns: []string{"ns0"}}, true},
		"inode":               {&f{Netns: []string{"4026531993"}}, true},
		"label of the inode":  {&f{Netns: []string{"ns4026531993"}}, true},
		"another netns":       {&f{Netns: []string{"1"}}, false},
		"source":              {&f{Addresses: []string{"10.0.0.1"}}, true},
		"destination":         {&f{Addresses: []string{"fd00::2"}}, true},
		"prefix":              {&f{Addresses: []string{"10.0.0.9/8"}}, true},
		"IPv6 prefix":         {&f{Addresses: []string{"fd00::/16"}}, true},
		"another address":     {&f{Addresses: []string{"10.0.0.2", "fe80::/10"}}, false},
		"source port":         {&f{Ports: []uint32{443}}, true},
		"destination port":    {&f{Ports: []uint32{1, 33488}}, true},
		"another port":        {&f{Ports: []uint32{80}}, false},
		"all of them":         {&f{Pods: []string{"web"}, Namespaces: []string{"shop"}, Ports: []uint32{443}}, true},
		"all of them but one": {&f{Pods: []string{"web"}, Namespaces: []string{"shop"}, Ports: []uint32{80}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := newFilter(tt.filter)
			require.NoError(t, err)
			assert.Equal(t, tt.want, f.passes(e))
		})
	}
}
