// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package stdoutexporter

import (
	"context"
	"os"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"

	"github.com/netexporter/netexporter/exporter/stdoutexporter/internal/metadata"
)

// Config has no keys. It is a type of its own, so that an unknown key is an error.
type Config struct{}

// NewFactory makes the factory of the exporter type `stdout`.
func NewFactory() exporter.Factory {
	return exporter.NewFactory(
		metadata.Type,
		func() component.Config { return &Config{} },
		exporter.WithLogs(newLogs, metadata.LogsStability),
	)
}

func newLogs(ctx context.Context, set exporter.Settings, cfg component.Config) (exporter.Logs, error) {
	e := lineExporter{out: os.Stdout}
	return exporterhelper.NewLogs(ctx, set, cfg, e.consumeLogs,
		// A write to standard output cannot be cancelled: a deadline would only pretend.
		exporterhelper.WithTimeout(exporterhelper.TimeoutConfig{Timeout: 0}),
	)
}
