// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Workload is what the pods of the cluster tests run. It gets connections refused: each leaves a reset in the network
// namespaces of both ends, whose port tells which pod it was.
//
//	workload pause                                    only is there
//	workload connect [-last ADDR] ADDR...             connects to each address, over and over
//
// With -last, it does not end when Kubernetes asks for it, but 200 ms later connects to another address, until it is killed.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	pause = 500 * time.Millisecond
	// lastAfter is how long after the request to end the last address is tried, and again.
	lastAfter = 200 * time.Millisecond
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "workload: pause or connect?")
		os.Exit(2)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	switch os.Args[1] {
	case "pause":
		go reap()
		<-stop
	case "connect":
		connect(os.Args[2:], stop)
	}
}

func connect(args []string, stop <-chan os.Signal) {
	flags := flag.NewFlagSet("connect", flag.ExitOnError)
	last := flags.String("last", "", "`ADDR` to connect to when it shall end")
	_ = flags.Parse(args) // it exits

	// The first line of the log: what the agent must call this pod's network namespace.
	link, err := os.Readlink("/proc/self/ns/net")
	fmt.Println(link, err)

	ticks := time.NewTicker(pause)
	for {
		for _, addr := range flags.Args() {
			try(addr)
		}
		select {
		case <-ticks.C:
		case <-stop:
			for *last != "" {
				time.Sleep(lastAfter)
				try(*last)
			}
			return
		}
	}
}

// try opens a connection, which is meant to fail.
func try(addr string) {
	if conn, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
		conn.Close()
	}
}

// reap takes leave of processes whose parent has gone: as the sandbox of a pod with a shared PID namespace, this is process 1.
func reap() {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for range children {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
