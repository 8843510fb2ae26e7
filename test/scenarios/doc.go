// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package scenarios makes each documented trouble happen on the real kernel, in network namespaces of its own, while
// bin/netexporter watches, and a real Prometheus with the rules of deploy/prometheus scrapes it: the alerts of a trouble
// must fire for the namespace that has it, and no alert for one that has none; the panel that an alert leads to must show
// it; every panel of deploy/grafana must have data.
//
// With -write the run is also written down: docs/troubleshooting.md gets its lines and docs/pictures its panels.
package scenarios
