// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// tableAt returns a table whose clock is *now.
func tableAt(now *time.Time) *table {
	t := newTable(nil, nil)
	t.now = func() time.Time { return *now }
	return t
}

// named returns the name of a pod, empty if there is none.
func named(p *pod) string {
	if p == nil {
		return ""
	}
	return p.name
}

func expectCounts(t *testing.T, table *table, live, gone int) {
	t.Helper()
	gotLive, gotGone := table.counts()
	assert.Equal(t, []int{live, gone}, []int{gotLive, gotGone}, "live and gone")
}

func TestLookup(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	static := apiPod(mirrorUID, "static", func(p *corev1.Pod) {
		p.Annotations = map[string]string{"kubernetes.io/config.mirror": staticUID}
	})
	require.NoError(t, table.Replace([]any{apiPod(uid, "a"), static}, "1"))
	expectCounts(t, table, 2, 0)
	running := apiPod(uid, "a", func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{ContainerID: "containerd://" + containerID}}
	})
	require.NoError(t, table.Update(running))
	expectCounts(t, table, 2, 0)

	for _, tt := range []struct{ uid, container, want string }{
		{uid, "", "a"},
		{"", containerID, "a"},
		{"00000000-0000-0000-0000-000000000000", containerID, "a"},
		{staticUID, otherID, "static"},
		{mirrorUID, "", "static"},
		{"", "", ""},
		{"", otherID, ""},
	} {
		p, gone := table.lookup(tt.uid, tt.container)
		assert.Equal(t, tt.want, named(p), tt)
		assert.False(t, gone)
	}
}

// A pod that is gone keeps its name for its last events, and for as long as its processes go on.
func TestTombstone(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	require.NoError(t, table.Add(apiPod(uid, "a")))
	require.NoError(t, table.Delete(apiPod(uid, "a")))
	expectCounts(t, table, 0, 1)
	for range 5 {
		now = now.Add(tombstone - time.Second)
		expectCounts(t, table, 0, 1)
		p, gone := table.lookup(uid, "")
		assert.Equal(t, "a", named(p))
		assert.True(t, gone)
	}
	now = now.Add(tombstone + time.Second)
	expectCounts(t, table, 0, 0)
	p, _ := table.lookup(uid, "")
	assert.Nil(t, p)
	assert.Empty(t, table.byAddr, "an address of a pod that is forgotten")
}

// What was deleted while the API server was away is missing from its next list.
func TestReplaceBuries(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	require.NoError(t, table.Replace([]any{apiPod(uid, "a"), apiPod(mirrorUID, "b")}, "1"))
	require.NoError(t, table.Replace([]any{apiPod(mirrorUID, "b")}, "2"))
	expectCounts(t, table, 1, 1)
	p, gone := table.lookup(uid, "")
	assert.Equal(t, "a", named(p))
	assert.True(t, gone)
	now = now.Add(tombstone / 2)
	require.NoError(t, table.Replace(nil, "3"))
	expectCounts(t, table, 0, 2)
}

// Of a static pod whose manifest was put back, the mirror is another, its UID on the node the same.
func TestStaticPodAgain(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	mirror := func(uid string) *corev1.Pod {
		return apiPod(uid, "static", func(p *corev1.Pod) {
			p.Annotations = map[string]string{"kubernetes.io/config.mirror": staticUID}
		})
	}
	require.NoError(t, table.Add(mirror(uid)))
	require.NoError(t, table.Delete(mirror(uid)))
	require.NoError(t, table.Add(mirror(mirrorUID)))
	now = now.Add(2 * tombstone)
	expectCounts(t, table, 1, 0)
	p, gone := table.lookup(staticUID, "")
	assert.Equal(t, "static", named(p))
	assert.False(t, gone)
}

// An address is the pod's that had it at the time of the event, not the one's that has it now.
func TestAt(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	second := func(s float64) time.Time { return at(s).Time }
	ip := netip.MustParseAddr(podAddress)
	expect := func(s float64, want string) {
		t.Helper()
		assert.Equal(t, want, named(table.at(ip, second(s))), "at second %v", s)
	}

	require.NoError(t, table.Add(apiPod(uid, "first")))
	expect(-1, "")
	expect(0.5, "first")
	assert.Equal(t, "first", named(table.at(netip.MustParseAddr("fd00::5"), second(1))), "IPv6")
	assert.Nil(t, table.at(netip.MustParseAddr("10.1.0.6"), second(1)))

	now = second(10.7)
	require.NoError(t, table.Delete(apiPod(uid, "first")))
	expect(9, "first")
	expect(30, "first") // a peer sends on for a while

	start := at(10) // 10.6, cut off
	require.NoError(t, table.Add(apiPod(mirrorUID, "second", func(p *corev1.Pod) { p.Status.StartTime = &start })))
	expect(9, "first")
	expect(10.65, "") // either
	expect(30, "second")

	// A Job that is complete stays in the API, its address does not stay its own.
	now = second(60)
	require.NoError(t, table.Update(apiPod(mirrorUID, "second", func(p *corev1.Pod) {
		p.Status.StartTime, p.Status.Phase = &start, corev1.PodSucceeded
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{FinishedAt: at(40)},
		}}}
	})))
	start3 := at(50)
	require.NoError(t, table.Add(apiPod(staticUID, "third", func(p *corev1.Pod) { p.Status.StartTime = &start3 })))
	expect(39, "second")
	expect(45, "second")
	expect(60, "third")
}

// The status of a pod that ends may lose its addresses before its last packets.
func TestAddressesStay(t *testing.T) {
	now := epoch
	table := tableAt(&now)
	require.NoError(t, table.Add(apiPod(uid, "a")))
	require.NoError(t, table.Update(apiPod(uid, "a", func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil })))
	assert.Equal(t, "a", named(table.at(netip.MustParseAddr(podAddress), at(1).Time)))
}

func TestTableTakesPodsOnly(t *testing.T) {
	table := newTable(nil, nil)
	require.Error(t, table.Add(&corev1.Node{}))
	require.Error(t, table.Replace([]any{&corev1.Node{}}, "1"))
}

func BenchmarkLookup(b *testing.B) {
	table := newTable(nil, nil)
	for i := range 100 {
		require.NoError(b, table.Add(apiPod(fmt.Sprintf("8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a%04d", i), "a")))
	}
	b.ReportAllocs()
	for b.Loop() {
		if p, _ := table.lookup("8c1c1e3a-2b5d-4f0e-9d55-0f2f5e1a0042", containerID); p == nil {
			b.Fatal("not found")
		}
	}
}
