// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package eventline composes the line that stands for an event: the body of its log record.
package eventline

import (
	"strconv"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// Attributes that the receiver sets and the processor reads too. Their source is the receiver's metadata.yaml; a test compares.
const (
	KeyContainerID = "container.id"
	KeyEventName   = "event.name"
	KeyNetnsName   = "network.netns.name"
)

// Attributes of which the line is made, from the metadata.yaml of the receiver and, for the labels, of the processor.
const (
	keyCPU                = "cpu.logical_number"
	keyDestinationAddress = "destination.address"
	keyDestinationPort    = "destination.port"
	keyDuration           = "event.duration"
	keyLocation           = "event.location"
	keyPID                = "process.pid"
	keyReason             = "event.reason"
	keySection            = "event.section"
	keySoftirqVector      = "softirq.vector"
	keySourceAddress      = "source.address"
	keySourcePort         = "source.port"
	keyStacktrace         = "event.stacktrace"
	keySuppressed         = "event.suppressed"
	keyTCPState           = "tcp.state"
	keyThreadName         = "thread.name"
	keyTransport          = "network.transport"
	keyVirtioCommand      = "virtio.command"

	keyLabelNamespace = "namespace"
	keyLabelPod       = "pod"
)

// Events whose line has more than the addresses, from the receiver's metadata.yaml.
const (
	eventPacketLoss      = "PACKETLOSS"
	eventTCPResetProcess = "TCPRESET_PROCESS"
)

// Aliases are the names that other tools give events, in capitals, and the name here.
func Aliases() map[string]string {
	return map[string]string{
		"TCP_SEND_RST":        eventTCPResetProcess,
		"TCP_SEND_RST_ACTIVE": "TCPRESET_ACTIVE",
		"TCP_SEND_RST_NOSOCK": "TCPRESET_NOSOCK",
	}
}

// Append appends the line of the event rec, without a line end, to dst and returns the extended slice.
// res are the attributes of the record's resource: with the labels pod and namespace, once they are known, or without.
//
//	type=T [pod=P namespace=N] protocol=TCP saddr=A sport=1 daddr=B dport=2 [suppressed=9] [reason=R location=f+0x1  stacktrace:f+0x1 g+0x2 | state:S] [container=C | netns=NAME]
//	type=T [pod=P namespace=N] [protocol=TCP saddr=A sport=1 daddr=B dport=2] cpu=0 pid=1 comm=C [vector=V | command=C | section=S] latency=1.234ms [suppressed=9] [container=C | netns=NAME]
//
// The second is that of latencies; those of the node have no packet. The reason, the location and the stack are those of
// PACKETLOSS, the state that of TCPRESET_PROCESS; two spaces precede stacktrace: and state:. container= or netns= tells whose network namespace it is where no pod is known.
// A field whose attribute is missing or empty is left out, and a port with its address.
//
// The line cannot be broken or forged by a value: in each, and in each function of the stack, every byte that is no
// printable ASCII, and space, =, % and ", is written as % and two upper-case hex digits, as in a URL.
func Append(dst []byte, res pcommon.Map, rec plog.LogRecord) []byte {
	attrs := rec.Attributes()
	name := text(attrs, KeyEventName)

	dst = appendEscaped(append(dst, "type="...), name)

	container, netns := ShortID(text(res, KeyContainerID)), text(res, KeyNetnsName)
	pod, namespace := text(res, keyLabelPod), text(res, keyLabelNamespace)
	if pod == "" || pod == container || pod == netns {
		// The labels are empty or stand in for a pod that is not known.
		pod, namespace = "", ""
	}
	dst = appendField(dst, " pod=", pod)
	dst = appendField(dst, " namespace=", namespace)
	dst = appendParts(dst, rec)
	switch {
	case pod != "":
	case container != "":
		dst = appendField(dst, " container=", container)
	default:
		dst = appendField(dst, " netns=", netns)
	}
	return dst
}

// AppendParts appends the part of the line that tells what happened, without whose it is: from protocol= on.
func AppendParts(dst []byte, rec plog.LogRecord) []byte {
	from := len(dst)
	dst = appendParts(dst, rec)
	if len(dst) == from {
		return dst
	}
	return append(dst[:from], dst[from+1:]...) // a space precedes each part
}

func appendParts(dst []byte, rec plog.LogRecord) []byte {
	attrs := rec.Attributes()
	dst = appendField(dst, " protocol=", protocol(text(attrs, keyTransport)))
	if addr := text(attrs, keySourceAddress); addr != "" {
		dst = appendField(dst, " saddr=", addr)
		dst = appendNumber(dst, " sport=", attrs, keySourcePort)
	}
	if addr := text(attrs, keyDestinationAddress); addr != "" {
		dst = appendField(dst, " daddr=", addr)
		dst = appendNumber(dst, " dport=", attrs, keyDestinationPort)
	}
	dst = appendNumber(dst, " cpu=", attrs, keyCPU)
	dst = appendNumber(dst, " pid=", attrs, keyPID)
	dst = appendField(dst, " comm=", text(attrs, keyThreadName))
	dst = appendField(dst, " vector=", text(attrs, keySoftirqVector))
	dst = appendField(dst, " command=", text(attrs, keyVirtioCommand))
	dst = appendField(dst, " section=", text(attrs, keySection))
	if v, ok := attrs.Get(keyDuration); ok {
		dst = appendMilliseconds(append(dst, " latency="...), v.Int())
	}
	if v, ok := attrs.Get(keySuppressed); ok && v.Int() > 0 {
		dst = strconv.AppendInt(append(dst, " suppressed="...), v.Int(), 10)
	}

	switch text(attrs, KeyEventName) {
	case eventPacketLoss:
		dst = appendField(dst, " reason=", text(attrs, keyReason))
		dst = appendField(dst, " location=", text(attrs, keyLocation))
		dst = appendStack(dst, "  stacktrace:", text(attrs, keyStacktrace))
	case eventTCPResetProcess:
		dst = appendField(dst, "  state:", text(attrs, keyTCPState))
	}
	return dst
}

// ShortID returns the first 12 digits of a container id, by which users know a container.
func ShortID(id string) string {
	return id[:min(len(id), 12)]
}

// text returns the attribute key of m as text, empty if there is none.
func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

// protocol returns the documented, upper-case name of a transport protocol.
func protocol(transport string) string {
	switch transport { // what nearly every event is, without an allocation
	case "tcp":
		return "TCP"
	case "udp":
		return "UDP"
	}
	return strings.ToUpper(transport)
}

func appendField(dst []byte, label, value string) []byte {
	if value == "" {
		return dst
	}
	return appendEscaped(append(dst, label...), value)
}

func appendNumber(dst []byte, label string, attrs pcommon.Map, key string) []byte {
	v, ok := attrs.Get(key)
	if !ok {
		return dst
	}
	return strconv.AppendInt(append(dst, label...), v.Int(), 10)
}

// appendMilliseconds appends nanoseconds in milliseconds with three decimals, whatever their size, so that
// lines compare. They are rounded up, as a latency over a threshold shall not look like the threshold.
func appendMilliseconds(dst []byte, ns int64) []byte {
	us := (uint64(max(0, ns)) + 999) / 1000
	dst = strconv.AppendUint(dst, us/1000, 10)
	return append(dst, '.', byte('0'+us/100%10), byte('0'+us/10%10), byte('0'+us%10), 'm', 's')
}

func appendStack(dst []byte, label, stack string) []byte {
	for function := range strings.FieldsSeq(stack) {
		dst = appendEscaped(append(dst, label...), function)
		label = " "
	}
	return dst
}

// Escape writes a value as the line does: one that is printable ASCII stays as it is.
func Escape(value string) string { return string(appendEscaped(nil, value)) }

func appendEscaped(dst []byte, value string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(value) {
		switch c := value[i]; {
		case c <= ' ', c > '~', c == '=', c == '%', c == '"':
			dst = append(dst, '%', hex[c>>4], hex[c&0xf])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
