// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of Loki's push API, by grafana/loki/pkg/push/push.proto:
//
//	PushRequest { repeated Stream streams = 1 }
//	Stream      { string labels = 1; repeated Entry entries = 2 }
//	Entry       { google.protobuf.Timestamp timestamp = 1; string line = 2 }
//	Timestamp   { int64 seconds = 1; int32 nanos = 2 }
//
// They are written by hand: what is generated would copy each line twice, and come with a second protobuf library.
const (
	fieldStreams   protowire.Number = 1
	fieldLabels    protowire.Number = 1
	fieldEntries   protowire.Number = 2
	fieldTimestamp protowire.Number = 1
	fieldLine      protowire.Number = 2
	fieldSeconds   protowire.Number = 1
	fieldNanos     protowire.Number = 2
)

// appendEntry appends an entry of a Stream to dst.
func appendEntry(dst []byte, at time.Time, line []byte) []byte {
	var buf [2 * (1 + binary.MaxVarintLen64)]byte
	stamp := protowire.AppendTag(buf[:0], fieldSeconds, protowire.VarintType)
	stamp = protowire.AppendVarint(stamp, uint64(at.Unix()))
	stamp = protowire.AppendTag(stamp, fieldNanos, protowire.VarintType)
	stamp = protowire.AppendVarint(stamp, uint64(at.Nanosecond()))

	dst = protowire.AppendTag(dst, fieldEntries, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(sizeField(len(stamp))+sizeField(len(line))))
	dst = protowire.AppendTag(dst, fieldTimestamp, protowire.BytesType)
	dst = protowire.AppendBytes(dst, stamp)
	dst = protowire.AppendTag(dst, fieldLine, protowire.BytesType)
	return protowire.AppendBytes(dst, line)
}

// appendStream appends a stream of a PushRequest to dst, whose entries are encoded already.
func appendStream(dst []byte, labels string, entries []byte) []byte {
	dst = protowire.AppendTag(dst, fieldStreams, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(sizeField(len(labels))+len(entries)))
	dst = protowire.AppendTag(dst, fieldLabels, protowire.BytesType)
	dst = protowire.AppendString(dst, labels)
	return append(dst, entries...)
}

// sizeField is the size of a field of n bytes whose number is below 16, tag and length included.
func sizeField(n int) int { return 1 + protowire.SizeBytes(n) }
