// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/netexporter/netexporter/internal/eventline"
)

// Attributes that are shown, from the metadata.yaml of the receiver and, for the labels, of the processor.
const (
	keyDestinationAddress = "destination.address"
	keyDestinationPort    = "destination.port"
	keyHostName           = "host.name"
	keyInode              = "network.netns.inode"
	keySourceAddress      = "source.address"
	keySourcePort         = "source.port"

	keyLabelNamespace = "namespace"
	keyLabelNetns     = "netns"
	keyLabelNode      = "node"
	keyLabelPod       = "pod"
)

// record is a log record on its way to the screen.
type record struct {
	source   string // address of the agent
	at       time.Time
	resource pcommon.Map
	log      plog.LogRecord
}

// renderer appends the line of a record, with its end.
type renderer func(dst []byte, r record) []byte

// Formats of watch.
const (
	formatText = "text"
	formatJSON = "json"
	formatWide = "wide"
)

// newRenderer returns nil if there is no such format.
func newRenderer(format string, colors palette) renderer {
	switch format {
	case formatText:
		return func(dst []byte, r record) []byte { return append(appendText(dst, r, colors), '\n') }
	case formatWide:
		return func(dst []byte, r record) []byte { return append(appendWide(dst, r, colors), '\n') }
	case formatJSON:
		return appendJSON
	}
	return nil
}

// appendText appends the documented line:
//
//	INFO  TCP_RCV_RST_ESTAB Namespace=kube-system Pod=kube-proxy-worker-tbv5s Node=worker-1 Netns=4026531993 10.1.16.255:43186 -> 100.100.27.15:3128
//
// An event without addresses has its parts in their place. Two spaces follow the level.
func appendText(dst []byte, r record, colors palette) []byte {
	dst = appendHead(dst, r, colors)
	dst = append(dst, ' ')
	attrs := r.log.Attributes()
	from, to := endpoint(attrs, keySourceAddress, keySourcePort), endpoint(attrs, keyDestinationAddress, keyDestinationPort)
	if from == "" && to == "" {
		return eventline.AppendParts(dst, r.log)
	}
	dst = append(dst, from...)
	dst = append(dst, " -> "...)
	return append(dst, to...)
}

// appendWide appends the time, the line with all parts, and where it comes from.
func appendWide(dst []byte, r record, colors palette) []byte {
	dst = r.at.Local().AppendFormat(dst, "2006-01-02T15:04:05.000000Z07:00")
	dst = append(dst, ' ')
	dst = appendHead(dst, r, colors)
	dst = append(dst, ' ')
	dst = eventline.AppendParts(dst, r.log)
	dst = append(dst, " source="...)
	return append(dst, r.source...)
}

func appendHead(dst []byte, r record, colors palette) []byte {
	dst = append(dst, colors.level(level(r.log))...)
	dst = append(dst, level(r.log)...)
	dst = append(dst, colors.reset()...)
	dst = append(dst, "  "...)
	dst = append(dst, colors.event()...)
	dst = append(dst, eventline.Escape(eventName(r.log))...)
	dst = append(dst, colors.reset()...)
	for _, field := range []struct{ name, value string }{
		{" Namespace=", text(r.resource, keyLabelNamespace)},
		{" Pod=", text(r.resource, keyLabelPod)},
		{" Node=", nodeOf(r.resource)},
		{" Netns=", text(r.resource, keyInode)},
	} {
		dst = append(dst, field.name...)
		dst = append(dst, eventline.Escape(field.value)...)
	}
	return dst
}

// appendJSON appends the documented JSON line: these keys, in this order. meta and event end with a space.
func appendJSON(dst []byte, r record) []byte {
	line := struct {
		Time   string `json:"time"`
		Level  string `json:"level"`
		Source string `json:"source"`
		Msg    string `json:"msg"`
		Meta   string `json:"meta"`
		Event  string `json:"event"`
	}{
		Time:   r.at.UTC().Format(time.RFC3339Nano),
		Level:  level(r.log),
		Source: r.source,
		Msg:    eventName(r.log),
		Meta: text(r.resource, keyLabelNamespace) + "/" + text(r.resource, keyLabelPod) +
			" node=" + nodeOf(r.resource) + " netns=" + text(r.resource, keyLabelNetns) + " ",
		Event: string(eventline.AppendParts(nil, r.log)) + " ",
	}
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	_ = e.Encode(line) // strings alone
	return append(dst, buf.Bytes()...)
}

// level returns the documented name of a severity.
func level(rec plog.LogRecord) string {
	if s := rec.SeverityText(); s != "" {
		return eventline.Escape(s)
	}
	return "INFO"
}

// eventName returns the name of the event, or the body of a record that is none.
func eventName(rec plog.LogRecord) string {
	if name := text(rec.Attributes(), eventline.KeyEventName); name != "" {
		return name
	}
	if name := rec.EventName(); name != "" {
		return name
	}
	return rec.Body().AsString()
}

// nodeOf returns the label of the node, or where there is no processor the host's name.
func nodeOf(res pcommon.Map) string {
	if node := text(res, keyLabelNode); node != "" {
		return node
	}
	return text(res, keyHostName)
}

// endpoint returns address:port, an IPv6 address in brackets, and the address alone without a port.
func endpoint(attrs pcommon.Map, addressKey, portKey string) string {
	address := eventline.Escape(text(attrs, addressKey))
	port, ok := attrs.Get(portKey)
	if address == "" || !ok {
		return address
	}
	return net.JoinHostPort(address, strconv.FormatInt(port.Int(), 10))
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

// palette has the colors of a terminal; the zero value has none.
type palette struct{ on bool }

func (p palette) code(c string) string {
	if !p.on {
		return ""
	}
	return "\x1b[" + c + "m"
}

func (p palette) reset() string  { return p.code("0") }
func (p palette) event() string  { return p.code("1") }
func (p palette) header() string { return p.code("7") }

func (p palette) level(name string) string {
	switch name {
	case "INFO":
		return p.code("36")
	case "WARN":
		return p.code("33")
	}
	return p.code("31")
}
