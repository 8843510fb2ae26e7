// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package cluster tests the image of netexporter in a Kubernetes cluster, rolled out as deploy/kubernetes has it, by what
// a user sees: the log of its pods and its Prometheus endpoint. Workloads are real pods.
//
// `make test-cluster` makes the cluster, of two nodes on this machine, and runs the tests in the namespaces of the first
// node. Without a cluster they skip. The truth about a pod does not come from Kubernetes' API, which the agent asks too:
// each pod connects to a port of its own, so that the port in an event tells which pod it was, and prints the name of its
// network namespace.
package cluster
