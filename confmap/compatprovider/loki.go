// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package compatprovider

import (
	"context"
	"net"
	"os"
	"strings"
	"time"
)

const (
	lokiService = "grafana-loki"
	lokiPort    = "3100"
	lokiPath    = "/loki/api/v1/push"
	// lookupTime bounds the question whether there is such a name.
	lookupTime = 2 * time.Second
	// namespaceFile tells a pod its namespace.
	namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
)

// discoverLoki returns the address of the Service grafana-loki in the own namespace.
func discoverLoki() string {
	namespace, _ := os.ReadFile(namespaceFile) // outside of a pod there is none
	return lokiAddress(strings.TrimSpace(string(namespace)), os.Getenv, func(host string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
		defer cancel()
		addrs, err := net.DefaultResolver.LookupHost(ctx, host)
		return err == nil && len(addrs) > 0
	})
}

// lokiAddress prefers the Service's name, which holds when the Service is made anew, or later than the agent. Where names of
// Services are not known, as in the node's network with the node's resolver, it takes the address that
// Kubernetes gives to all pods of the Service's namespace in their environment.
func lokiAddress(namespace string, getenv func(string) string, isName func(string) bool) string {
	port := getenv("GRAFANA_LOKI_SERVICE_PORT")
	if port == "" {
		port = lokiPort
	}
	name := lokiService
	if namespace != "" {
		name += "." + namespace + ".svc"
	}
	if ip := getenv("GRAFANA_LOKI_SERVICE_HOST"); ip != "" && !isName(name) {
		name = ip
	}
	return net.JoinHostPort(name, port)
}

// lokiEndpoint makes the URL of Loki's push API of an address: a URL, or a host with or without a port.
func lokiEndpoint(address string) string {
	scheme, rest, isURL := strings.Cut(address, "://")
	if !isURL {
		scheme, rest = "http", address
	}
	host, path, hasPath := strings.Cut(rest, "/")
	if _, _, err := net.SplitHostPort(host); err != nil && !isURL {
		host = net.JoinHostPort(strings.Trim(host, "[]"), lokiPort)
	}
	if !hasPath || path == "" {
		return scheme + "://" + host + lokiPath
	}
	return scheme + "://" + host + "/" + path
}
