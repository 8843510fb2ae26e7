// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package eventstreamv1 is the gRPC service of the event stream, generated from eventstream.proto, which documents it.
package eventstreamv1 // import "github.com/netexporter/netexporter/api/eventstream/v1"

//go:generate protogen ../.. eventstream/v1/eventstream.proto
