// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package k8spodprocessor labels the network namespaces that the netexporter receiver reports with their owner.
package k8spodprocessor

//go:generate mdatagen metadata.yaml
