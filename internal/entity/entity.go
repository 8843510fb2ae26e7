// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package entity has the names of the log records that tell what there is: not events, which tell what happened. They follow
// the entity events of OpenTelemetry (specification, entities/entity-events, in development). docs/events.md describes them.
package entity

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// EventNames of the records: the state of an entity, and its end.
const (
	EventState  = "entity.state"
	EventDelete = "entity.delete"
)

// Attributes of the records.
const (
	KeyType        = "entity.type"        // string, one of the types below
	KeyID          = "entity.id"          // map; what tells the entity from others of its type on this node
	KeyDescription = "entity.description" // map; all else that is known, absent from EventDelete
	KeyInterval    = "report.interval"    // int, milliseconds; the state is sent anew at least that often
)

// Types of entities.
const (
	TypeNamespace = "network.namespace"
	TypeProbe     = "netexporter.probe"
)

// Keys of the maps of a TypeNamespace; the id has the names of the resource's attributes.
const (
	KeyNetnsCookie  = "network.netns.cookie"
	KeyNetnsInode   = "network.netns.inode"
	KeyAddresses    = "network.netns.addresses" // slice of strings
	KeyProcessCount = "process.count"           // int, also of those that are not listed
	KeyProcesses    = "processes"               // slice of maps, oldest first, with KeyPID and KeyExecutable
	KeyPID          = "process.pid"             // int
	KeyExecutable   = "process.executable.name" // string, as the kernel shortens it
)

// Keys of the maps of a TypeProbe.
const (
	KeyProbe      = "probe"             // string, of the id
	KeyUp         = "up"                // bool
	KeyVerified   = "verified"          // bool, absent where the self-test said nothing
	KeyEvents     = "events"            // int; this and the next two are absent from a probe without events
	KeySuppressed = "events.suppressed" // int
	KeyLost       = "events.lost"       // map of ints by hop
	KeyHooks      = "hooks"             // slice of maps, with the three keys below
	KeyHook       = "hook"              // string
	KeyVariant    = "variant"           // string, "none" if the hook does not run
	KeyError      = "error"             // string, absent if it does
)

// Is tells whether a record is of an entity, and so nothing for those who read events.
func Is(rec plog.LogRecord) bool {
	name := rec.EventName()
	return name == EventState || name == EventDelete
}

// Append appends the state of an entity, and returns what is to be filled in.
func Append(to plog.LogRecordSlice, entityType string, intervalMs int64) (id, description pcommon.Map) {
	rec := to.AppendEmpty()
	rec.SetEventName(EventState)
	attrs := rec.Attributes()
	attrs.EnsureCapacity(4)
	attrs.PutStr(KeyType, entityType)
	attrs.PutInt(KeyInterval, intervalMs)
	// A map that is put later may move those before it: both first, then the references.
	attrs.PutEmptyMap(KeyID)
	attrs.PutEmptyMap(KeyDescription)
	return mapOf(attrs, KeyID), mapOf(attrs, KeyDescription)
}

// AppendDelete appends the end of an entity, and returns the id to be filled in.
func AppendDelete(to plog.LogRecordSlice, entityType string) (id pcommon.Map) {
	rec := to.AppendEmpty()
	rec.SetEventName(EventDelete)
	rec.Attributes().PutStr(KeyType, entityType)
	return rec.Attributes().PutEmptyMap(KeyID)
}

// Parts returns the type, the id and the description of the entity that a record is of. The maps are empty where the record has none.
func Parts(rec plog.LogRecord) (entityType string, id, description pcommon.Map) {
	if v, ok := rec.Attributes().Get(KeyType); ok {
		entityType = v.AsString()
	}
	return entityType, mapOf(rec.Attributes(), KeyID), mapOf(rec.Attributes(), KeyDescription)
}

func mapOf(attrs pcommon.Map, key string) pcommon.Map {
	if v, ok := attrs.Get(key); ok && v.Type() == pcommon.ValueTypeMap {
		return v.Map()
	}
	return pcommon.NewMap()
}
