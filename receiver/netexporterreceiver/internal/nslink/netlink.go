// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// What golang.org/x/sys/unix does not define.
const (
	// include/uapi/linux/rtnetlink.h and if_link.h
	newStats       = 92 // RTM_NEWSTATS
	statsHeaderLen = 12 // struct if_stats_msg

	// include/uapi/linux/netfilter/nfnetlink_conntrack.h
	conntrackStatsCPU    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 4 // IPCTNL_MSG_CT_GET_STATS_CPU
	conntrackStatsGlobal = unix.NFNL_SUBSYS_CTNETLINK<<8 | 5 // IPCTNL_MSG_CT_GET_STATS
	nfgenHeaderLen       = 4                                 // struct nfgenmsg
	nfgenResource        = 2                                 // its res_id, in network order

	// enum ctattr_stats_cpu
	ctaStatsFound         = 2
	ctaStatsInvalid       = 4
	ctaStatsIgnore        = 5
	ctaStatsInsert        = 8
	ctaStatsInsertFailed  = 9
	ctaStatsDrop          = 10
	ctaStatsEarlyDrop     = 11
	ctaStatsSearchRestart = 13
	// enum ctattr_stats_global
	ctaStatsGlobalEntries = 1

	// include/uapi/linux/sock_diag.h and inet_diag.h
	socketByFamily   = 20 // SOCK_DIAG_BY_FAMILY
	socketRequestLen = 56 // struct inet_diag_req_v2
	socketLen        = 72 // struct inet_diag_msg
	// include/net/tcp_states.h
	stateEstablished = 1
	stateTimeWait    = 6
	stateListen      = 10

	// loopbackIndex is the index of lo in every namespace: loopback_net_init() of
	// drivers/net/loopback.c registers it before all others and has it that it is LOOPBACK_IFINDEX.
	loopbackIndex = 1

	attributeTypeMask = 1<<14 - 1 // NLA_TYPE_MASK
)

var errMalformed = errors.New("malformed netlink message")

// linksRequest appends a request for the statistics of all interfaces, and returns it with the
// sequence number of its last message.
func linksRequest(b []byte) ([]byte, uint32) {
	b = appendHeader(b, unix.RTM_GETSTATS, unix.NLM_F_DUMP, 1, statsHeaderLen)
	b = append(b, make([]byte, 8)...) // family, index
	return binary.NativeEndian.AppendUint32(b, 1<<(unix.IFLA_STATS_LINK_64-1)), 1
}

// conntrackRequest appends two requests, for the number of entries and for the counters of each
// CPU, and returns them with the sequence number of the last. The dump is last because the kernel
// answers in turn, and nothing while it is in a dump.
func conntrackRequest(b []byte) ([]byte, uint32) {
	var nfgen [nfgenHeaderLen]byte // AF_UNSPEC, NFNETLINK_V0
	b = appendHeader(b, conntrackStatsGlobal, 0, 1, nfgenHeaderLen)
	b = append(b, nfgen[:]...)
	b = appendHeader(b, conntrackStatsCPU, unix.NLM_F_DUMP, 2, nfgenHeaderLen)
	return append(b, nfgen[:]...), 2
}

func socketsRequest4(b []byte) ([]byte, uint32) { return socketsRequest(b, unix.AF_INET) }
func socketsRequest6(b []byte) ([]byte, uint32) { return socketsRequest(b, unix.AF_INET6) }

// socketsRequest appends a request for the TCP sockets of one IP version, and returns it with the
// sequence number of its last message.
func socketsRequest(b []byte, family byte) ([]byte, uint32) {
	b = appendHeader(b, socketByFamily, unix.NLM_F_DUMP, 1, socketRequestLen)
	b = append(b, family, unix.IPPROTO_TCP, 0, 0) // no attributes
	b = binary.NativeEndian.AppendUint32(b, 1<<stateEstablished|1<<stateTimeWait|1<<stateListen)
	return append(b, make([]byte, socketRequestLen-8)...), 1 // of any address
}

func appendHeader(b []byte, kind, flags uint16, sequence uint32, body int) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(unix.NLMSG_HDRLEN+body))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = binary.NativeEndian.AppendUint32(b, sequence)
	return binary.NativeEndian.AppendUint32(b, 0) // port: the kernel fills it in
}

// collect adds what a datagram tells. It returns true when that ends the answer to the message with
// the sequence number last.
func (s *Stats) collect(datagram []byte, last uint32) (done bool, err error) {
	for len(datagram) > 0 && !done {
		var m message
		if m, datagram, err = cutMessage(datagram); err != nil {
			return false, err
		}
		if m.flags&unix.NLM_F_DUMP_INTR != 0 {
			return false, errInterrupted
		}
		switch m.kind {
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			if err := m.errno(); err != nil {
				return false, err
			}
			done = m.kind == unix.NLMSG_DONE && m.sequence == last
		case unix.NLMSG_OVERRUN:
			return false, unix.ENOBUFS
		case newStats:
			err = s.Links.add(m.body)
		case socketByFamily:
			err = s.Sockets.add(m.body)
		case conntrackStatsCPU:
			err = s.Conntrack.addCPU(m.body)
		case conntrackStatsGlobal:
			err = s.Conntrack.addGlobal(m.body)
		}
		if err != nil {
			return false, err
		}
	}
	return done, nil
}

// add adds an interface: struct if_stats_msg and attributes.
func (l *LinkStats) add(body []byte) error {
	if len(body) < statsHeaderLen {
		return fmt.Errorf("%w: %d bytes of interface statistics", errMalformed, len(body))
	}
	if binary.NativeEndian.Uint32(body[4:]) == loopbackIndex {
		return nil
	}
	for attributes := body[statsHeaderLen:]; len(attributes) > 0; {
		var a attribute
		var err error
		if a, attributes, err = cutAttribute(attributes); err != nil {
			return err
		}
		if a.kind != unix.IFLA_STATS_LINK_64 {
			continue
		}
		// The members of struct rtnl_link_stats64, which has grown at its end only.
		counters := [...]*uint64{
			0: &l.RxPackets, 1: &l.TxPackets, 2: &l.RxBytes, 3: &l.TxBytes,
			4: &l.RxErrors, 5: &l.TxErrors, 6: &l.RxDropped, 7: &l.TxDropped,
			15: &l.RxDropped, // rx_missed_errors
		}
		if len(a.value) < 8*len(counters) {
			return fmt.Errorf("%w: %d bytes of interface counters", errMalformed, len(a.value))
		}
		for i, counter := range counters {
			if counter != nil {
				*counter += binary.NativeEndian.Uint64(a.value[8*i:])
			}
		}
	}
	return nil
}

// add adds a socket: struct inet_diag_msg and attributes. The queues of one that listens are those of
// its connections (tcp_diag_get_info() of net/ipv4/tcp_diag.c).
func (s *SocketStats) add(body []byte) error {
	if len(body) < socketLen {
		return fmt.Errorf("%w: %d bytes of a socket", errMalformed, len(body))
	}
	rx, tx := uint64(binary.NativeEndian.Uint32(body[56:])), uint64(binary.NativeEndian.Uint32(body[60:]))
	switch body[1] {
	case stateEstablished:
		s.Established++
		s.RxQueue += rx
		s.TxQueue += tx
	case stateTimeWait:
		s.TimeWait++
	case stateListen:
		s.Listening++
		s.AcceptQueue += rx
		s.AcceptLimit += tx
		if rx > tx { // sk_acceptq_is_full() of include/net/sock.h
			s.AcceptFull++
		}
	}
	return nil
}

// addCPU adds the counters of a CPU: struct nfgenmsg with the CPU's number, and attributes.
func (c *ConntrackStats) addCPU(body []byte) error {
	kinds := [...]uint16{
		ctaStatsFound, ctaStatsInvalid, ctaStatsIgnore, ctaStatsInsert,
		ctaStatsInsertFailed, ctaStatsDrop, ctaStatsEarlyDrop, ctaStatsSearchRestart,
	}
	sums := [len(kinds)]*uint64{
		&c.Found, &c.Invalid, &c.Ignore, &c.Insert, &c.InsertFailed, &c.Drop, &c.EarlyDrop, &c.SearchRestart,
	}
	var counters [len(kinds)]uint32
	if err := readBigEndian(body, func(kind uint16) *uint32 {
		if i := slices.Index(kinds[:], kind); i >= 0 {
			return &counters[i]
		}
		return nil
	}); err != nil {
		return err
	}
	if c.counted != nil {
		c.counted.Update(int(binary.BigEndian.Uint16(body[nfgenResource:])), counters[:])
	}
	for i, sum := range sums {
		if c.counted != nil {
			*sum = c.counted.Sum(i)
		} else {
			*sum += uint64(counters[i])
		}
	}
	return nil
}

func (c *ConntrackStats) addGlobal(body []byte) error {
	var entries uint32
	err := readBigEndian(body, func(kind uint16) *uint32 {
		if kind == ctaStatsGlobalEntries {
			return &entries
		}
		return nil
	})
	c.Entries += uint64(entries)
	return err
}

// readBigEndian reads attributes of 32 bits in network order into the variables that are for them, if any.
func readBigEndian(body []byte, variable func(kind uint16) *uint32) error {
	if len(body) < nfgenHeaderLen {
		return fmt.Errorf("%w: %d bytes of conntrack statistics", errMalformed, len(body))
	}
	for attributes := body[nfgenHeaderLen:]; len(attributes) > 0; {
		var a attribute
		var err error
		if a, attributes, err = cutAttribute(attributes); err != nil {
			return err
		}
		v := variable(a.kind)
		if v == nil {
			continue
		}
		if len(a.value) != 4 {
			return fmt.Errorf("%w: %d bytes in conntrack attribute %d", errMalformed, len(a.value), a.kind)
		}
		*v = binary.BigEndian.Uint32(a.value)
	}
	return nil
}

// message is a struct nlmsghdr and what follows it.
type message struct {
	kind, flags uint16
	sequence    uint32
	body        []byte
}

// cutMessage returns the first message of a datagram and what follows it.
func cutMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.NLMSG_HDRLEN {
		return m, nil, fmt.Errorf("%w: %d bytes of header", errMalformed, len(b))
	}
	size := int64(binary.NativeEndian.Uint32(b))
	if size < unix.NLMSG_HDRLEN || size > int64(len(b)) {
		return m, nil, fmt.Errorf("%w: length %d in %d bytes", errMalformed, size, len(b))
	}
	m = message{
		kind:     binary.NativeEndian.Uint16(b[4:]),
		flags:    binary.NativeEndian.Uint16(b[6:]),
		sequence: binary.NativeEndian.Uint32(b[8:]),
		body:     b[unix.NLMSG_HDRLEN:size],
	}
	return m, b[aligned(int(size), len(b)):], nil
}

// errno returns the error of a message of type NLMSG_ERROR or NLMSG_DONE, nil if it tells success.
func (m message) errno() error {
	if len(m.body) < 4 {
		return fmt.Errorf("%w: %d bytes of status", errMalformed, len(m.body))
	}
	if code := int32(binary.NativeEndian.Uint32(m.body)); code < 0 {
		return unix.Errno(-int64(code))
	}
	return nil
}

type attribute struct {
	kind  uint16
	value []byte
}

// cutAttribute returns the first attribute, struct nlattr and its value, and what follows it.
func cutAttribute(b []byte) (a attribute, rest []byte, err error) {
	if len(b) < unix.SizeofNlAttr {
		return a, nil, fmt.Errorf("%w: %d bytes of attribute", errMalformed, len(b))
	}
	size := int(binary.NativeEndian.Uint16(b))
	if size < unix.SizeofNlAttr || size > len(b) {
		return a, nil, fmt.Errorf("%w: attribute length %d in %d bytes", errMalformed, size, len(b))
	}
	a = attribute{
		kind:  binary.NativeEndian.Uint16(b[2:]) & attributeTypeMask,
		value: b[unix.SizeofNlAttr:size],
	}
	return a, b[aligned(size, len(b)):], nil
}

// aligned returns where the next message or attribute starts; the last may lack its padding.
func aligned(size, limit int) int {
	return min((size+unix.NLMSG_ALIGNTO-1)&^(unix.NLMSG_ALIGNTO-1), limit)
}
