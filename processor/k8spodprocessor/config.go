// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"fmt"
	"path/filepath"
)

// Config is the configuration of the processor.
type Config struct {
	// Node is the value of the label node. If empty, it is the first line of etc/hostname under RootPath,
	// and where that tells none, the host name of the kernel.
	Node string `mapstructure:"node"`

	// RootPath is where the root file system of the host is mounted, / if empty.
	RootPath string `mapstructure:"root_path"`
}

// Validate returns an error for a root path that is not absolute. It does not look at the host.
func (c *Config) Validate() error {
	if c.RootPath != "" && !filepath.IsAbs(c.RootPath) {
		return fmt.Errorf("root_path: must be an absolute path, got %q", c.RootPath)
	}
	return nil
}
