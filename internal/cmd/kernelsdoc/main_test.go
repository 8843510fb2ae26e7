// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, content := range map[string]string{
		"6.12.output": "=== RUN TestA\r\n--- PASS: TestA (0.00s)\r\n    x_test.go:1: variants: {\"release\":\"6.12.1-cloud\",\"hooks\":{\"tcpreset/sent\":\"raw_tp\"}}\r\n",
		"again":       "@@@ ./a\n--- PASS: TestC\n    x_test.go:1: variants: {\"release\":\"6.1.0\",\"hooks\":{\"tcpreset/sent\":\"fentry\",\"old/one\":\"none\"}}\n",
		"6.1.output":  "@@@ ./a\n=== RUN   TestB\n=== RUN   TestB/c\n    x_test.go:7: too old\n=== RUN   TestE/f/ipv4\n    x_test.go:8: too old\n=== RUN   TestE/f/ipv6\n    x_test.go:8: too old\n=== RUN   TestW\n    x_test.go:9: not a test\n--- SKIP: TestW (0.00s)\n    --- SKIP: TestB/c (0.00s)\n    --- PASS: TestB/d (0.00s)\n        --- SKIP: TestE/f/ipv4 (0.00s)\n        --- SKIP: TestE/f/ipv6 (0.00s)\n    x_test.go:1: variants: {\"release\":\"6.1.0\",\"hooks\":{\"tcpreset/sent\":\"fentry\",\"old/one\":\"none\"}}\n--- FAIL: TestC\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	slices.Sort(files)
	var out strings.Builder
	if err := run(files, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| probe | hook | 6.1.0 | 6.12.1-cloud |\n",
		"| old | one | none | - |\n",
		"| tcpreset | sent | fentry | raw_tp |\n",
		"| `TestB/c`, `TestE` | too old | 6.1.0 |\n",
		"| 6.1.0 | 2 | 0 | 2 |\n", // again passed what had failed
		"| 6.12.1-cloud | 1 | 0 | 0 |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "TestW") {
		t.Errorf("what is no test is listed in\n%s", out.String())
	}
}

func TestNoReport(t *testing.T) {
	if _, err := parse(strings.NewReader("--- PASS: TestA\n")); err == nil {
		t.Error("no error for an output without the report")
	}
}
