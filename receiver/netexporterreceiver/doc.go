// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package netexporterreceiver emits the kernel's network counters and network events of every
// network namespace of the host as OTLP metrics and logs. One instance, with one set of kernel
// programs, serves all pipelines that share a configuration.
package netexporterreceiver

//go:generate mdatagen metadata.yaml
