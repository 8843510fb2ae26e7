// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package netexporterreceiver

import (
	"os"
	"path/filepath"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/metadata"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver/internal/netns"
)

// resources describes namespaces as OTLP resources.
type resources struct {
	cfg      metadata.ResourceAttributesConfig
	hostName string
}

func newResources(cfg *Config) (*resources, error) {
	name, err := hostName(cfg.RootPath)
	return &resources{cfg.ResourceAttributes, name}, err
}

// hostName returns the name in <root>/etc/hostname, which is the host's where the own name is that
// of a container.
func hostName(root string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(root, "etc", "hostname"))
	if name := strings.TrimSpace(string(raw)); err == nil && name != "" {
		return name, nil
	}
	return os.Hostname()
}

// of returns the resource of a namespace, that of the node for the zero Namespace.
func (r *resources) of(ns netns.Namespace) pcommon.Resource {
	rb := metadata.NewResourceBuilder(r.cfg)
	rb.SetHostName(r.hostName)
	if ns.ID != (netns.ID{}) {
		rb.SetNetworkNetnsInode(int64(ns.Inode))
	}
	if ns.Cookie != 0 {
		rb.SetNetworkNetnsCookie(int64(ns.Cookie))
	}
	if ns.Host {
		rb.SetNetworkNetnsHost(true)
	}
	if ns.Name != "" {
		rb.SetNetworkNetnsName(ns.Name)
	}
	if ns.ContainerID != "" {
		rb.SetContainerID(ns.ContainerID)
	}
	if ns.PodUID != "" {
		rb.SetK8sPodUID(ns.PodUID)
	}
	return rb.Emit()
}
