// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Dashboards writes the Grafana dashboards of deploy/grafana. What is on them is in content.go, what Grafana wants around it
// in grafana.go.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

//go:generate go run . ../../../deploy/grafana/dashboards

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: dashboards DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(dir string) error {
	all := dashboards()
	for _, d := range all {
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(d.model(all)); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, d.name+".json"), text.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}
