// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package lokiexporter pushes log records to Grafana Loki by its push API:
// protobuf, compressed by snappy.
//
// Loki 3 takes OTLP as well, from the exporter otlp_http, which is the better
// way to a Loki whose configuration is yours. This one is for older ones, for
// those that only take pushes, and for configurations that were written for
// contrib's exporter of the same type, which left contrib with v0.131.0: it has
// the same keys and obeys the same hints.
//
// The log line is the body of the record. The labels of a stream are few, so
// that streams are: what varies more is in the line.
package lokiexporter // import "github.com/netexporter/netexporter/exporter/lokiexporter"

//go:generate mdatagen metadata.yaml
