// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

// troubleEnv makes this test binary the process that gets into trouble.
const troubleEnv = "NETEXPORTER_TEST_TROUBLE"

// trouble is what that process had, by the flows as the events should show them.
type trouble struct {
	Refused  [2]netip.AddrPort // a connection, from here to where it was refused
	Reset    [2]netip.AddrPort // a connection, from the end that closed with data unread to the other
	Overflow [2]netip.AddrPort // datagrams, to the socket that was full
}

// makeTrouble has all of it on the loopback of the network that it is in.
func makeTrouble(t *testing.T, address string) (had trouble) {
	host := net.JoinHostPort(address, "0")
	listener, err := net.Listen("tcp", host)
	require.NoError(t, err)
	port := func(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	server, err := listener.Accept()
	require.NoError(t, err)
	_, err = client.Write([]byte("unread"))
	require.NoError(t, err)
	nettest.Wait(t, "data to arrive", func() bool { return inQueue(t, server) > 0 })
	had.Reset = [2]netip.AddrPort{port(server.LocalAddr()), port(server.RemoteAddr())}
	require.NoError(t, server.Close())
	_, err = client.Read(make([]byte, 1))
	require.ErrorIs(t, err, unix.ECONNRESET)
	require.NoError(t, client.Close())

	// Nobody listens on that port from here on.
	require.NoError(t, listener.Close())
	var dialer net.Dialer
	dialer.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			sa, err := bindTo(int(fd), address)
			require.NoError(t, err)
			had.Refused[0] = sa
		})
	}
	_, err = dialer.Dial("tcp", listener.Addr().String())
	require.ErrorIs(t, err, unix.ECONNREFUSED)
	had.Refused[1] = port(listener.Addr())

	receiver, err := net.ListenPacket("udp", host)
	require.NoError(t, err)
	require.NoError(t, receiver.(*net.UDPConn).SetReadBuffer(1)) // the kernel's minimum
	sender, err := net.Dial("udp", receiver.LocalAddr().String())
	require.NoError(t, err)
	for range 5 { // more than it takes, fewer than the rate limit lets pass
		_, err = sender.Write(make([]byte, 1000))
		require.NoError(t, err)
	}
	had.Overflow = [2]netip.AddrPort{port(sender.LocalAddr()), port(receiver.LocalAddr())}
	require.NoError(t, errors.Join(sender.Close(), receiver.Close()))
	return had
}

// inQueue returns the bytes that a connection has not been read for.
func inQueue(t *testing.T, conn net.Conn) (n int) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) }))
	require.NoError(t, err)
	return n
}

// bindTo gives a socket a port, before it connects.
func bindTo(fd int, address string) (netip.AddrPort, error) {
	a := netip.MustParseAddr(address)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: a.As16()}
	if a.Is4() {
		sa = &unix.SockaddrInet4{Addr: a.As4()}
	}
	if err := unix.Bind(fd, sa); err != nil {
		return netip.AddrPort{}, err
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(a, uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(a, uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("bound to %v", sa)
}

// TestTrouble is no test: it is the process that makeTroubleIn starts.
func TestTrouble(t *testing.T) {
	address := os.Getenv(troubleEnv)
	if address == "" {
		t.Skip("not a test by itself: TestHostNetworkPods runs it")
	}
	report, err := json.Marshal(makeTrouble(t, address))
	require.NoError(t, err)
	fmt.Printf("\n%s%s\n", troubleEnv, report)
}

// makeTroubleIn has a process of a cgroup make it.
func makeTroubleIn(t *testing.T, cgroup, address string) (had trouble) {
	dir, err := os.Open(cgroup)
	require.NoError(t, err)
	defer dir.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestTrouble$")
	cmd.Env = append(os.Environ(), troubleEnv+"="+address)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	_, report, found := bytes.Cut(out, []byte("\n"+troubleEnv))
	require.True(t, found, "%s", out)
	report, _, _ = bytes.Cut(report, []byte("\n"))
	require.NoError(t, json.Unmarshal(report, &had))
	return had
}

// newCgroup makes a cgroup (version 2) until the end of the test.
func newCgroup(t *testing.T, path ...string) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
			continue
		}
		dir := root
		for _, name := range path {
			dir = filepath.Join(dir, name)
			made := dir
			if err := os.Mkdir(made, 0o755); errors.Is(err, os.ErrExist) {
				continue // of this machine itself
			} else if err != nil {
				t.Skip("cannot make a cgroup: ", err)
			}
			t.Cleanup(func() { assert.NoError(t, os.Remove(made)) })
		}
		return dir
	}
	t.Skip("no cgroups of version 2 here")
	return ""
}

// Pods in the network of the host share its namespace: the cgroup of the socket tells them apart.
func TestHostNetworkPods(t *testing.T) {
	requireRoot(t)
	cgroup := newCgroup(t, "kubepods.slice", "kubepods-burstable.slice",
		"kubepods-burstable-pod"+strings.ReplaceAll(podUID, "-", "_")+".slice", "cri-containerd-"+containerID+".scope")
	r := start(t, nil)
	host, err := r.agent.running.source.Host()
	require.NoError(t, err)
	var own unix.Stat_t
	require.NoError(t, unix.Stat("/proc/self/ns/net", &own))
	if uint64(host.Inode) != own.Ino {
		t.Skip("does not run in the network of the host")
	}
	for address, f := range map[string]nettest.Family{"127.0.0.1": nettest.IPv4, "::1": nettest.IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			pod := makeTroubleIn(t, cgroup, address)
			other := makeTrouble(t, address)
			for _, c := range []struct {
				of     trouble
				who    string
				pod    string
				socket bool
			}{{pod, "pod", podUID, true}, {other, "host", "<absent>", true}} {
				reset := func(name string, flow [2]netip.AddrPort, pod string) {
					t.Helper()
					e := r.await(t, name, flow)
					assert.Equal(t, pod, resourceAttr(e, "k8s.pod.uid"), "%s of the %s", name, c.who)
					assert.Equal(t, "true", resourceAttr(e, "network.netns.host"))
					container := "<absent>"
					if pod == podUID {
						container = containerID
						assert.Contains(t, e.Body().Str(), " container="+containerID[:12])
					}
					assert.Equal(t, container, resourceAttr(e, "container.id"))
				}
				back := func(f [2]netip.AddrPort) [2]netip.AddrPort { return [2]netip.AddrPort{f[1], f[0]} }
				reset("TCPRESET_ACTIVE", c.of.Reset, c.pod)
				reset("TCP_RCV_RST_ESTAB", back(c.of.Reset), c.pod)
				reset("TCP_RCV_RST_SYN", c.of.Refused, c.pod)
				reset("TCPRESET_NOSOCK", c.of.Refused, "<absent>") // no socket, nobody's
				if hasResetReasons() {                             // 6.11 tells for which socket a packet was dropped
					reset("PACKETLOSS", c.of.Overflow, c.pod)
				}
			}
		})
	}
}

func resourceAttr(e event, key string) string {
	v, ok := e.resource.Get(key)
	if !ok {
		return "<absent>"
	}
	return v.AsString()
}

// await waits for the first event of a name and a flow, of whichever namespace.
func (r *rig) await(t *testing.T, name string, flow [2]netip.AddrPort) (found event) {
	t.Helper()
	nettest.Wait(t, fmt.Sprintf("%s from %s to %s", name, flow[0], flow[1]), func() bool {
		for _, found = range r.allEvents() {
			if found.EventName() == name && endpointOf(found, "source") == flow[0].String() && endpointOf(found, "destination") == flow[1].String() {
				return true
			}
		}
		return false
	})
	return found
}
