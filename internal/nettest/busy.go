// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nettest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vethRing is how many packets one end of a veth pair takes from the other and has not looked at yet:
// VETH_RING_SIZE of drivers/net/veth.c.
const vethRing = 256

// BusyDevice returns a function that lets A send datagrams to B faster than B's device takes them, until A's device takes no
// more for some time, of which pause is the most. It is less where the kernel takes the CPU away from real-time threads
// (sched_rt_runtime_us, and since 6.12 the fair server). The device says that it is busy since commit dc82a33297fc
// (v6.16): before, veth drops what it has no room for, and the function skips the test.
func (p *Pair) BusyDevice(t T, family Family, pause time.Duration) (datagram Packet, busy func()) {
	t.Helper()
	const rate = 1 << 30 // bytes a second: it holds nothing up, and hands everything through its queue
	p.A.shape(t, rate, rate/100)
	// A veth receives in NAPI what may be aggregated: with generic receive offload, and from a sender that segments by itself.
	p.A.configure(t, func() error { return setFeature(Device, unix.ETHTOOL_STSO, false) })
	p.B.deviceInThread(t)
	conn := p.A.DialUDP(t, localAddr(p.B.ListenUDP(t, family)))
	control(t, conn, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<22) })
	dropped := p.A.dropped(t)
	return p.fromA(family, localAddr(conn), remoteAddr(conn)), func() {
		t.Helper()
		if err := hold(conn, pause); err != nil {
			t.Fatalf("keep the device of network namespace %s busy: %v", p.B.Name, err)
		}
		Wait(t, "the datagrams to arrive", func() bool { return Queued(t, conn, unix.SIOCOUTQ) == 0 })
		if p.A.dropped(t) > dropped {
			t.Skip("needs a veth that says that it is busy, of Linux 6.16")
		}
	}
}

// deviceInThread lets the device receive in a thread of the kernel, and not in the soft interrupt of who sends to it.
func (n *Namespace) deviceInThread(t T) {
	t.Helper()
	n.configure(t, func() error {
		if err := setFeature(Device, unix.ETHTOOL_SGRO, true); err != nil {
			return fmt.Errorf("turn on generic receive offload: %w", err)
		}
		dir, err := os.MkdirTemp("", "sysfs")
		if err != nil {
			return err
		}
		defer func() { _ = os.Remove(dir) }()
		if err := unix.Mount("sysfs", dir, "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
			return fmt.Errorf("mount sysfs: %w", err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		file, err := os.OpenFile(filepath.Join(dir, "class/net", Device, "threaded"), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("needs devices that receive in a thread, of Linux 5.12")
		}
		if err != nil {
			return err
		}
		_, err = file.WriteString("1")
		return errors.Join(err, file.Close())
	})
}

// setFeature turns a feature of a device on or off.
func setFeature(device string, feature uint32, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	value := struct{ cmd, data uint32 }{cmd: feature} // ethtool_value of include/uapi/linux/ethtool.h
	if on {
		value.data = 1
	}
	request := struct { // ifreq of include/uapi/linux/if.h
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

// hold sends more datagrams than a device has room for, on the CPU where its thread is, and lets nothing else run there
// meanwhile.
func hold(conn *net.UDPConn, pause time.Duration) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and the thread ends with the goroutine
		var cpus unix.CPUSet
		if err = unix.SchedGetaffinity(0, &cpus); err != nil {
			return
		}
		for cpu := 0; cpus.Count() > 1; cpu++ {
			cpus.Clear(cpu)
		}
		err = errors.Join(
			unix.SchedSetaffinity(0, &cpus),
			unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0),
			moveThreads("napi/"+Device+"-", &cpus),
		)
		for sent := 0; err == nil && sent < vethRing+16; sent++ {
			_, err = conn.Write([]byte{0})
		}
		for end := time.Now().Add(pause); err == nil && time.Now().Before(end); {
			runtime.KeepAlive(end) // busy, for what sleeps lets others run
		}
	}()
	<-done
	return err
}

// moveThreads moves the threads of the kernel whose names begin so.
func moveThreads(name string, to *unix.CPUSet) error {
	paths, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	moved := false
	for _, path := range paths {
		comm, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(comm), name) {
			continue // it has ended, or it is another
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err := unix.SchedSetaffinity(pid, to); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move %s: %w", strings.TrimSpace(string(comm)), err)
		}
		moved = true
	}
	if !moved {
		return fmt.Errorf("there is no thread %s", name)
	}
	return nil
}

// dropped is how many packets the device has not sent.
func (n *Namespace) dropped(t T) (packets uint64) {
	t.Helper()
	n.configure(t, func() error {
		device, err := netlink.LinkByName(Device)
		if err == nil {
			packets = device.Attrs().Statistics.TxDropped
		}
		return err
	})
	return packets
}
