// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const kernelBTF = "/sys/kernel/btf/vmlinux"

func TestBTFDiscover(t *testing.T) {
	for name, args := range map[string][]string{
		"the host":             {"btf", "discover"},
		"an empty root":        {"btf", "discover", "--root", t.TempDir()},
		"the host, said aloud": {"btf", "discover", "--root", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, nil, program(t, "inspector"), args...)
			code := p.exitCode(t)
			if _, err := os.Stat(kernelBTF); err != nil && code != 0 {
				assert.Contains(t, p.stderr.String(), "CONFIG_DEBUG_INFO_BTF", "it says what to install")
				t.Skipf("the kernel has no BTF of its own: %v", err)
			}
			require.Zero(t, code)
			path := strings.TrimSuffix(p.stdout.String(), "\n")
			assert.FileExists(t, path)
			if _, err := os.Stat(kernelBTF); err == nil {
				assert.Equal(t, kernelBTF, path)
			}
		})
	}
}

func TestInspectorHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"btf", "--help"}, {"btf", "discover", "--help"}} {
		p := run(t, nil, program(t, "inspector"), args...)
		assert.Zero(t, p.exitCode(t), args)
		assert.Contains(t, p.stdout.String(), "Usage:", args)
	}
}

func TestInspectorRefusesNonsense(t *testing.T) {
	p := run(t, nil, program(t, "inspector"), "no-such-command")
	assert.Positive(t, p.exitCode(t))
	assert.Contains(t, p.stderr.String(), "no-such-command")
}
