// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/netexporter/netexporter/test/bench/population"
)

const (
	program = "bin/netexporter"
	config  = "distribution/config/standalone.yaml"

	sockets = 45 // of each namespace
	passes  = 4  // before memory is read
	// interval is the collection_interval of the configuration.
	interval = 5 * time.Second
	scrapes  = 7

	timeout      = 2 * time.Minute // for the first pass
	pollInterval = 200 * time.Millisecond
)

// collector is the cost of the whole program, with the configuration that is shipped.
type collector struct {
	Namespaces int // that were made for it
	Served     int // on the page, the host's and those that were there before included
	Series     int

	Resident, ResidentScraped int // B, after the passes and after the scrapes

	PassCPU time.Duration // of an interval between passes: the pass and the pipeline

	ScrapeCPU, ScrapeTime time.Duration // of one scrape, CPU of the program and fastest time on the clock
	Page, PageCompressed  int           // B
}

// measureCollector runs the program on a host with that many namespaces.
func measureCollector(namespaces int) (c collector, err error) {
	p, err := population.New(namespaces, sockets)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	c.Namespaces = namespaces

	ports, err := freePorts(3)
	if err != nil {
		return c, err
	}
	var log bytes.Buffer
	cmd := exec.Command(program, "--config", config,
		"--set", "exporters::prometheus::endpoint="+ports[0],
		"--set", "exporters::eventstream::endpoint=127.0.0.1:0",
		"--set", "extensions::health_check::endpoint="+ports[1],
		"--set", "service::telemetry::metrics::readers="+reader(ports[2]))
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return c, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(timeout):
			_ = cmd.Process.Kill()
			<-ended
		}
		if err != nil {
			err = fmt.Errorf("%w; the program's log:\n%s", err, log.String())
		}
	}()
	pid := cmd.Process.Pid

	// The first pass comes soon, and each of the others an interval after the one before. In the meantime nobody asks
	// the program anything.
	if err := waitForPass(ports[2]); err != nil {
		return c, err
	}
	before, err := cpuTime(pid)
	if err != nil {
		return c, err
	}
	time.Sleep((passes-1)*interval + interval/2)
	after, err := cpuTime(pid)
	if err != nil {
		return c, err
	}
	c.PassCPU = (after - before) / (passes - 1)
	if c.Resident, err = resident(pid); err != nil {
		return c, err
	}
	if err := c.scrape(pid, "http://"+ports[0]+"/metrics"); err != nil {
		return c, err
	}
	c.ResidentScraped, err = resident(pid)
	return c, err
}

// scrape fetches the page as Prometheus does.
func (c *collector) scrape(pid int, url string) error {
	var cpu, clock []time.Duration
	var page []byte
	for range scrapes {
		before, err := cpuTime(pid)
		if err != nil {
			return err
		}
		start := time.Now()
		if page, err = get(url, "gzip"); err != nil {
			return err
		}
		clock = append(clock, time.Since(start))
		after, err := cpuTime(pid)
		if err != nil {
			return err
		}
		cpu = append(cpu, after-before)
	}
	c.ScrapeCPU, c.ScrapeTime = median(cpu), slices.Min(clock)
	c.PageCompressed = len(page)
	unpacked, err := gzip.NewReader(bytes.NewReader(page))
	if err != nil {
		return fmt.Errorf("unpack %s: %w", url, err)
	}
	text, err := io.ReadAll(unpacked)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", url, err)
	}
	c.Page = len(text)
	served := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		c.Series++
		if _, rest, ok := strings.Cut(line, `netns="`); ok {
			name, _, _ := strings.Cut(rest, `"`)
			served[name] = true
		}
	}
	c.Served = len(served)
	return nil
}

func median[T cmp.Ordered](values []T) T {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// reader is the configuration of the program's own metrics.
func reader(endpoint string) string {
	host, port, _ := strings.Cut(endpoint, ":")
	return fmt.Sprintf("[{pull: {exporter: {prometheus: {host: %s, port: %s}}}}]", host, port)
}

// waitForPass waits until the program has handed on a pass.
func waitForPass(endpoint string) error {
	for deadline := time.Now().Add(timeout); time.Now().Before(deadline); time.Sleep(pollInterval) {
		// An error says that it has not started yet.
		if page, err := get("http://"+endpoint+"/metrics", "identity"); err == nil && bytes.Contains(page, []byte("\notelcol_receiver_accepted_metric_points")) {
			return nil
		}
	}
	return fmt.Errorf("waited %v for the first pass", timeout)
}

// get returns the body of a page in an encoding.
func get(url, encoding string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", encoding)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// freePorts returns addresses of loopback that nobody listens on.
func freePorts(count int) ([]string, error) {
	var addresses []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = listener.Close() }() // all at once: no port twice
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses, nil
}

// resident returns the resident memory of a process in bytes.
func resident(pid int) (int, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	size, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kilobytes, err := strconv.Atoi(size)
	if err != nil {
		return 0, fmt.Errorf("read the resident memory of process %d: %w", pid, err)
	}
	return kilobytes << 10, nil
}

// cpuTime returns the time that a process has had a CPU, clock_getcpuclockid(3).
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED of include/linux/posix-timers_types.h
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}
