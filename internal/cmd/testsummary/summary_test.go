// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSummarize(t *testing.T) {
	for _, tt := range []struct {
		name   string
		events string
		want   string
		ok     bool
	}{
		{
			name: "nothing to test",
			events: `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p","Elapsed":0}
`,
			want: `
0 tests passed, 0 failed, 0 skipped; 0 packages passed, 0 failed
`,
			ok: true,
		},
		{
			name: "reasons of skipped tests are counted",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: a log\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:8: needs root\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestC/v6","Output":"        a_test.go:9: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestC/v6"}
{"Action":"pass","Package":"p","Test":"TestC"}
{"Action":"pass","Package":"p","Elapsed":1.26}
`,
			want: `ok   p 1.3s

SKIPPED  REASON             TEST
2        needs root         p.TestA and 1 more
1        (no reason given)  p.TestB

1 tests passed, 0 failed, 3 skipped; 1 packages passed, 0 failed
`,
			ok: true,
		},
		{
			name: "only what failed is shown",
			events: `{"Action":"output","Package":"p","Test":"TestGood","Output":"    a_test.go:7: quiet\n"}
{"Action":"pass","Package":"p","Test":"TestGood"}
{"Action":"output","Package":"p","Test":"TestBad","Output":"    a_test.go:8: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestBad"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p","Elapsed":0.01}
`,
			want: `FAIL p 0.0s
    a_test.go:8: got 1, want 2
FAIL

1 tests passed, 1 failed, 0 skipped; 0 packages passed, 1 failed
FAIL p
`,
		},
		{
			name: "the output of a failed build is shown",
			events: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a_test.go:5:34: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}
`,
			want: `FAIL p [p.test] (build)
p/a_test.go:5:34: undefined: x
FAIL p 0.0s
FAIL	p [build failed]

0 tests passed, 0 failed, 0 skipped; 0 packages passed, 1 failed
FAIL p
`,
		},
		{
			name: "a run that was cut off has failed",
			events: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"outp`,
			want: `{"Action":"outpFAIL p did not end
=== RUN   TestA

0 tests passed, 0 failed, 0 skipped; 0 packages passed, 1 failed
FAIL p
`,
		},
		{
			name:   "what is no event is passed on",
			events: "go: warning: \"./test/...\" matched no packages\n",
			want: `go: warning: "./test/..." matched no packages

0 tests passed, 0 failed, 0 skipped; 0 packages passed, 0 failed
`,
			ok: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := summarize(strings.NewReader(tt.events), &out)
			require.NoError(t, err)
			assert.Equal(t, tt.want, out.String())
			assert.Equal(t, tt.ok, ok)
		})
	}
}
