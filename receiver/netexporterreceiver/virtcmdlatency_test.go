// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/internal/nettest"
)

// virtioDevice returns the name of a virtio-net device that takes its address by a command.
func virtioDevice(t testing.TB) string {
	const ctrlVQ, ctrlMACAddr = 17, 23 // VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_MAC_ADDR, include/uapi/linux/virtio_net.h
	devices, err := filepath.Glob("/sys/bus/virtio/drivers/virtio_net/virtio*")
	require.NoError(t, err)
	for _, dir := range devices {
		features, err := os.ReadFile(filepath.Join(dir, "features")) // a digit a bit, the lowest first
		require.NoError(t, err)
		names, err := filepath.Glob(filepath.Join(dir, "net", "*"))
		require.NoError(t, err)
		if len(names) > 0 && features[ctrlVQ] == '1' && features[ctrlMACAddr] == '1' {
			return filepath.Base(names[0])
		}
	}
	t.Skipf("no virtio-net device with a control queue among %v", devices)
	return ""
}

// setAddress sets the link address of a device by SIOCSIFHWADDR, within the calling thread.
func setAddress(t testing.TB, device string, address net.HardwareAddr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	var ifreq struct { // include/uapi/linux/if.h
		name    [unix.IFNAMSIZ]byte
		family  uint16
		address [22]byte
	}
	copy(ifreq.name[:unix.IFNAMSIZ-1], device)
	ifreq.family = unix.ARPHRD_ETHER
	copy(ifreq.address[:], address)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&ifreq)))
	require.Zero(t, errno, "set the address of %s", device)
}

var virtCommandLine = regexp.MustCompile(`^type=VIRTCMDEXECUTE cpu=(\d+) pid=(\d+) comm=(\S+) command=([A-Z_]+) latency=(\d+\.\d{3})ms$`)

// Each command is measured: by an event with the threshold at nothing, and in the histogram.
func TestVirtCommands(t *testing.T) {
	requireRoot(t)
	device := virtioDevice(t)
	link, err := net.InterfaceByName(device)
	require.NoError(t, err)
	r := start(t, onlyProbe("virtcmdlatency", everything))
	want := "fentry"
	if _, err := os.Stat("/sys/kernel/btf/virtio_net"); err != nil {
		want = "kprobe" // the driver is a module without BTF of its own
	}
	hooks := r.self(t, "otelcol_netexporter.probe.hook", "probe", "hook", "variant")
	assert.EqualValues(t, 1, hooks["/virtcmdlatency/command/"+want], "%v", hooks)
	first := r.histograms(t)
	require.Len(t, first, 2, "in two spellings")
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	comm, err := os.ReadFile("/proc/thread-self/comm")
	require.NoError(t, err)
	defer setAddress(t, device, link.HardwareAddr)
	const commands = 8
	for i := range byte(commands) {
		address := slices.Clone(link.HardwareAddr)
		address[5] ^= i + 1
		setAddress(t, device, address)
	}
	second := r.histograms(t)
	node, pod := second["inspector_node_virtsendcmdlat"], second["inspector_pod_virtsendcmdlat"]
	require.GreaterOrEqual(t, node.Count()-first["inspector_node_virtsendcmdlat"].Count(), uint64(commands))
	assert.Equal(t, node.BucketCounts().AsRaw(), pod.BucketCounts().AsRaw())

	var events []event
	nettest.Wait(t, "all commands to arrive as events", func() bool {
		events = r.nodeEvents()
		return uint64(len(events)) >= node.Count()
	})
	own := 0
	var ns uint64
	for _, e := range events {
		line := e.Body().Str()
		parts := virtCommandLine.FindStringSubmatch(line)
		require.NotNil(t, parts, line)
		assert.Equal(t, "VIRTCMDEXECUTE", e.EventName())
		assert.Equal(t, []string{"host.name"}, keys(e.resource), "an event of the node")
		assert.Equal(t, parts[1], e.attr("cpu.logical_number"))
		assert.Equal(t, parts[2], e.attr("process.pid"))
		assert.Equal(t, parts[3], e.attr("thread.name"))
		assert.Equal(t, parts[4], e.attr("virtio.command"))
		duration, err := strconv.ParseUint(e.attr("event.duration"), 10, 64)
		require.NoError(t, err)
		assert.Equal(t, parts[5], fmt.Sprintf("%d.%03d", (duration+999)/1e6, (duration+999)/1e3%1e3))
		ns += duration
		if parts[4] == "MAC_ADDR_SET" && parts[2] == strconv.Itoa(os.Getpid()) && parts[3] == strings.TrimSpace(string(comm)) {
			own++
		}
	}
	assert.Equal(t, commands, own, "commands that this thread gave")
	third := r.histograms(t)["inspector_node_virtsendcmdlat"]
	assert.GreaterOrEqual(t, float64(ns)/1e9, node.Sum()-1e-9)
	assert.LessOrEqual(t, float64(ns)/1e9, third.Sum()+1e-9)
	t.Logf("%d commands took %.6f s: %v", third.Count(), third.Sum(), third.BucketCounts().AsRaw())
	if third.Count() == node.Count() {
		t.Logf("the last event: %s", events[len(events)-1].Body().Str())
	}
	got := r.pass(t)[0]
	assert.Contains(t, got, "inspector_pod_virtcmdlatency100ms")
}

// Where nothing of it can be attached, a probe that was asked for is an error that says why.
func TestVirtCommandsCannotRun(t *testing.T) {
	requireRoot(t)
	if canTraceVirtio() {
		t.Skip("not a test here: this kernel can run it, which TestVirtCommands tries")
	}
	_, err := startAs(t, onlyProbe("virtcmdlatency", nil), nil)
	require.ErrorContains(t, err, "probe virtcmdlatency")
	for _, function := range []string{"virtnet_send_command_reply", "virtnet_send_command"} {
		for _, kind := range []string{"fentry", "kprobe"} {
			assert.ErrorContains(t, err, kind+"/"+function, "each variant says why it does not run")
		}
	}
}
