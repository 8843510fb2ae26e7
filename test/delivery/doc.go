// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package delivery tests that events arrive: at a real Loki by both routes and at gateways, through outages and with the
// agent killed.
package delivery
