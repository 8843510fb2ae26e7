// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/netexporter/netexporter/internal/kubeapi"
)

// kubeOptions are the flags of finding agents by the API server.
type kubeOptions struct {
	enabled       bool
	file, context string
	selector      string
	nodes         []string
}

// Of the pods of agents, as the chart makes them.
const (
	agentSelector = "app.kubernetes.io/name=netexporter"
	agentPort     = "events"
)

func (o *kubeOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&o.enabled, "kube", false, "ask the agents of a Kubernetes cluster, which the API server tells; their pods' addresses must be reachable")
	f.StringVar(&o.file, "kubeconfig", "", "`file` that says how to reach the API server; default $KUBECONFIG, ~/.kube/config, or in a pod its service account")
	f.StringVar(&o.context, "kube-context", "", "`context` of the kubeconfig; default the current one")
	f.StringVar(&o.selector, "kube-selector", agentSelector, "`labels` of the agents' pods")
	f.StringSliceVar(&o.nodes, "kube-node", nil, "only the agents of these `nodes`")
}

// find returns the addresses of the agents that run, sorted by node.
func (o *kubeOptions) find(ctx context.Context, timeout time.Duration) ([]string, error) {
	if _, err := labels.Parse(o.selector); err != nil {
		return nil, usagef("--kube-selector %q: %w", o.selector, err)
	}
	config, err := kubeapi.KubeConfig(o.file, o.context)
	if clientcmd.IsEmptyConfig(err) {
		return nil, usagef("--kube: there is no kubeconfig; --kubeconfig names one")
	}
	if err != nil {
		return nil, usagef("--kube: %w", err)
	}
	config.Timeout = timeout
	client, err := kubeapi.NewClient(config)
	if err != nil {
		return nil, err
	}
	var pods corev1.PodList
	request := client.Get().Resource("pods").Param("labelSelector", o.selector)
	if err := request.Do(ctx).Into(&pods); err != nil {
		return nil, fmt.Errorf("ask the API server for the agents: %w", err)
	}
	return o.addresses(pods.Items)
}

func (o *kubeOptions) addresses(pods []corev1.Pod) ([]string, error) {
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return cmp.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	var addresses []string
	missing := slices.Clone(o.nodes)
	for i := range pods {
		p := &pods[i]
		if len(o.nodes) > 0 && !slices.Contains(o.nodes, p.Spec.NodeName) {
			continue
		}
		if p.Status.Phase != corev1.PodRunning || p.Status.PodIP == "" || p.DeletionTimestamp != nil {
			continue
		}
		missing = slices.DeleteFunc(missing, func(node string) bool { return node == p.Spec.NodeName })
		addresses = append(addresses, net.JoinHostPort(p.Status.PodIP, strconv.Itoa(streamPort(p))))
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("no agent with the labels %s runs on node %q", o.selector, missing[0])
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("no pod with the labels %s runs (--kube-selector)", o.selector)
	}
	return addresses, nil
}

// streamPort returns the port that a pod names so, or the default.
func streamPort(p *corev1.Pod) int {
	for _, c := range p.Spec.Containers {
		for _, port := range c.Ports {
			if port.Name == agentPort {
				return int(port.ContainerPort)
			}
		}
	}
	return defaultPort
}
