// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// nodeName returns the value of the label node and where it was found: "config", the path of a file, or "kernel".
// hostname is os.Hostname; it is the last resort, as a container may have a host name of its own.
func nodeName(cfg *Config, hostname func() (string, error)) (name, source string, err error) {
	if cfg.Node != "" {
		return cfg.Node, "config", nil
	}
	path := filepath.Join(cmp.Or(cfg.RootPath, "/"), "etc/hostname")
	data, fileErr := os.ReadFile(path)
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSpace(line); line != "" {
		return line, path, nil
	}
	name, err = hostname()
	if err != nil {
		return "", "", fmt.Errorf("name of the node (set node to give it): %w", errors.Join(fileErr, err))
	}
	return name, "kernel", nil
}
