// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNodeName(t *testing.T) {
	errHostname := errors.New("no host name")
	for _, tt := range []struct {
		name, node string
		file       string // content of etc/hostname, none if empty
		hostname   string // none if empty
		want       string
		wantSource string // without the root path
	}{
		{"configured", "worker-1", "file\n", "kernel", "worker-1", "config"},
		{"file", "", "iZbp1jesgumdx66l8ym8j8Z\n", "kernel", "iZbp1jesgumdx66l8ym8j8Z", "/etc/hostname"},
		{"first line, without blanks", "", " worker-1\t\r\nworker-2\n", "kernel", "worker-1", "/etc/hostname"},
		{"no line end", "", "worker-1", "kernel", "worker-1", "/etc/hostname"},
		{"no file", "", "", "worker-1", "worker-1", "kernel"},
		{"empty file", "", "\nworker-2\n", "worker-1", "worker-1", "kernel"},
		{"nothing", "", "", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if tt.file != "" {
				require.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(root, "etc", "hostname"), []byte(tt.file), 0o600))
			}
			hostname := func() (string, error) {
				if tt.hostname == "" {
					return "", errHostname
				}
				return tt.hostname, nil
			}

			name, source, err := nodeName(&Config{Node: tt.node, RootPath: root}, hostname)

			if tt.want == "" {
				require.ErrorIs(t, err, errHostname)
				require.ErrorIs(t, err, fs.ErrNotExist)
				assert.ErrorContains(t, err, "set node")
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, name)
			if tt.wantSource == "/etc/hostname" {
				tt.wantSource = root + tt.wantSource
			}
			assert.Equal(t, tt.wantSource, source)
		})
	}
}
