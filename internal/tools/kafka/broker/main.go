// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Command broker speaks Kafka's protocol at a port of loopback, and keeps a topic in memory. It is no Kafka: it tells that the
// configurations and their components fit together, and nothing of a cluster.
package main

import (
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 9092, "where it listens, on 127.0.0.1")
	topic := flag.String("topic", "netexporter_events", "the topic that there is")
	partitions := flag.Int("partitions", 3, "how many the topic has")
	flag.Parse()
	cluster, err := kfake.NewCluster(kfake.Ports(*port), kfake.NumBrokers(1), kfake.SeedTopics(int32(*partitions), *topic))
	if err != nil {
		log.Fatal(err)
	}
	defer cluster.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
}
