// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
)

func TestTopOnce(t *testing.T) {
	a := startAgent(t, nil)
	c := run(t, "top", "--once", "-e", a.address, "-n", "shop")
	at, drops := time.Unix(1000, 0), int64(0)
	eventually(t, "a table", func() bool { // of two passes after it has begun
		a.pass(t, at, map[string]int64{"web": drops, "db": 5})
		at, drops = at.Add(2*time.Second), drops+7
		return len(c.done) == 1
	})
	require.NoError(t, c.wait(t))
	lines := c.out.lines()
	require.Len(t, lines, 3)
	assert.Equal(t, "NAMESPACE POD NETNS NODE DROPS/s RESETS/s RETRANS/s QUEUE", strings.Join(strings.Fields(lines[0]), " "))
	assert.Equal(t, "shop web ns4026531993 worker-1 3.5 0.0 0.0 30", strings.Join(strings.Fields(lines[1]), " "))
	assert.Equal(t, "shop db ns4026531993 worker-1 0.0 0.0 0.0 30", strings.Join(strings.Fields(lines[2]), " "))
}

func passOf(source string, seconds int, of map[string]measure) topPass {
	p := topPass{source: source, measures: map[named]measure{}}
	for pod, m := range of {
		m.at = pcommon.NewTimestampFromTime(time.Unix(int64(seconds), 0))
		p.measures[named{"shop", pod, "ns1", "n"}] = m
	}
	return p
}

func (v *view) pods() (pods []string) {
	for _, r := range v.rows() {
		pods = append(pods, r.pod)
	}
	return pods
}

func newView() *view {
	return &view{sort: sortDrops, last: map[string]map[named]measure{}, rates: map[string][]rates{}, failures: map[string]error{}}
}

func TestTopView(t *testing.T) {
	v := newView()
	v.take(passOf("a", 10, map[string]measure{"x": {drops: 100}, "y": {drops: 1, resets: 50, retrans: 8, queue: 1}}))
	assert.Contains(t, v.table(0, 0)[1], " - ", "one pass makes no rate")
	v.take(passOf("a", 20, map[string]measure{"x": {drops: 120}, "y": {drops: 11, resets: 60, retrans: 2, queue: 9}}))
	v.take(passOf("b", 20, map[string]measure{"z": {queue: 5}}))
	for key, want := range map[rune][]string{'d': {"x", "y", "z"}, 'r': {"y", "x", "z"}, 't': {"y", "x", "z"}, 'q': {"y", "z", "x"}, 'n': {"x", "y", "z"}} {
		assert.True(t, v.press(key))
		assert.Equal(t, want, v.pods(), "key %c", key)
	}
	for _, r := range v.rows() {
		if r.pod == "y" {
			assert.Equal(t, []float64{1, 1, 0.2}, []float64{r.drops, r.resets, r.retrans}, "retransmissions have begun anew")
		}
	}

	for _, key := range "/SHOP/Zq" {
		v.press(key)
	}
	assert.Equal(t, "SHOP/Zq", v.word, "while it is typed, a key is a letter")
	assert.Empty(t, v.pods())
	v.press(backspace)
	assert.Equal(t, []string{"z"}, v.pods())
	v.press('\r')
	v.press('d')
	assert.Equal(t, "SHOP/Z", v.word)
	v.press(escape)
	assert.Len(t, v.pods(), 3)
	assert.False(t, v.press('x'))
	assert.False(t, v.press(ctrlC))

	assert.Len(t, v.table(40, 2), 2)
	for _, line := range v.table(40, 0) {
		assert.LessOrEqual(t, len([]rune(line)), 40)
	}

	v.take(topPass{source: "b", err: errors.New("cut off")})
	assert.Len(t, v.pods(), 2, "what is old is not shown")
	require.ErrorContains(t, v.errors(), "cut off")
	v.take(passOf("b", 30, nil))
	assert.NoError(t, v.errors())
}
