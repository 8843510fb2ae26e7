// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package eventstreamexporter is a gRPC server at the end of the pipelines: it streams events to those who watch, lists the last
// state of entities, and tells what runs (api/eventstream/v1).
//
// All watchers read one ring of the last events, each at its own pace. So to publish an event costs the same however many watch, never
// waits for any of them, and the memory is that of the ring. Who is slower than the ring turns has lost what was overwritten in the
// meantime, and is told how much that was; nobody else notices. The same ring serves those who come later and ask for what has been.
package eventstreamexporter // import "github.com/netexporter/netexporter/exporter/eventstreamexporter"

//go:generate mdatagen metadata.yaml
