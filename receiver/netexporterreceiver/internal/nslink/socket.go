// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package nslink

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// receiveSize is what is offered to the kernel for a part of a dump. The kernel makes all parts
	// but the first that large, be they only the end of the dump (netlink_dump() of
	// net/netlink/af_netlink.c), so it is what fits in 8192 bytes with the kernel's own overhead.
	receiveSize = 7808
	// maxDatagrams bounds an answer: it is room for 140,000 interfaces.
	maxDatagrams = 4096
	// attempts at an answer that the kernel says has been interrupted by a change, or that was
	// larger than the buffer.
	attempts = 2
)

var (
	errInterrupted = errors.New("dump interrupted by a change")
	errTruncated   = errors.New("truncated message")
	errNoEnd       = errors.New("answer without end")
)

// socket asks the kernel over netlink. It keeps only its buffer from one question to the next: what
// is opened in a namespace keeps that alive.
type socket struct {
	buffer    []byte
	answer    Stats
	sender    unix.RawSockaddrNetlink
	senderLen uint32
}

// ask sends a request and adds the whole answer to empty, which is valid until the next call.
func (s *socket) ask(protocol int, request func([]byte) ([]byte, uint32), empty Stats) (*Stats, error) {
	for attempt := 1; ; attempt++ {
		s.answer = empty
		err := s.try(protocol, request)
		if err == nil || attempt == attempts || !errors.Is(err, errInterrupted) && !errors.Is(err, errTruncated) {
			return &s.answer, err
		}
	}
}

func (s *socket) try(protocol int, request func([]byte) ([]byte, uint32)) error {
	if s.buffer == nil {
		s.buffer = make([]byte, receiveSize)
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	// An unconnected netlink socket sends to the kernel, which has answered when write returns.
	message, last := request(s.buffer[:0])
	if _, err := unix.Write(fd, message); err != nil {
		return os.NewSyscallError("write", err)
	}
	for range maxDatagrams {
		datagram, err := s.receive(fd)
		if err != nil {
			return err
		}
		if done, err := s.answer.collect(datagram, last); done || err != nil {
			return err
		}
	}
	return errNoEnd
}

// receive returns the next datagram, which is valid until the next call; it is empty if it came
// from elsewhere than the kernel, as one with CAP_NET_ADMIN in the namespace may send to the socket.
func (s *socket) receive(fd int) ([]byte, error) {
	s.senderLen = uint32(unsafe.Sizeof(s.sender))
	// unix.Recvfrom would allocate an address each time. With MSG_TRUNC the kernel returns the
	// datagram's own size.
	n, _, errno := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(unsafe.SliceData(s.buffer))), uintptr(len(s.buffer)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC,
		uintptr(unsafe.Pointer(&s.sender)), uintptr(unsafe.Pointer(&s.senderLen)))
	switch {
	case errno == unix.EAGAIN:
		return nil, errNoEnd
	case errno != 0:
		return nil, os.NewSyscallError("recvfrom", errno)
	case s.sender.Pid != 0:
		return nil, nil
	case int(n) > len(s.buffer):
		size := len(s.buffer)
		s.buffer = make([]byte, n)
		return nil, fmt.Errorf("%w: %d bytes of %d", errTruncated, size, n)
	}
	return s.buffer[:n], nil
}

// open opens a file whose path ends with a NUL, so that it needs no copy.
func open(path []byte) (int, error) {
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	at := unix.AT_FDCWD
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(at),
		uintptr(unsafe.Pointer(unsafe.SliceData(path))), flags, 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
