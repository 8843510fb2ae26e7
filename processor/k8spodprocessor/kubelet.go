// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/netexporter/netexporter/internal/kubeapi"
)

const (
	// kubeletPause is the least time between two questions to the kubelet, which answers with all pods each time.
	kubeletPause = 5 * time.Second
	// kubeletTimeout is how long it may take.
	kubeletTimeout = 5 * time.Second
)

// kubelet knows the pods of this node from its kubelet, even if the API server is away. It asks when a pod is not
// known, and never otherwise.
type kubelet struct {
	client rest.Interface
	table  *table
	logger *zap.Logger
	missed chan struct{} // something was asked for that it does not know
	failed atomic.Bool   // last time
}

// newKubelet returns the kubelet of a configuration, with the credentials for the API server.
func newKubelet(cfg KubeletConfig, api *rest.Config, labels podLabels, logger *zap.Logger) (*kubelet, error) {
	api = rest.CopyConfig(api)
	api.Host = cfg.Endpoint
	api.Timeout = kubeletTimeout
	api.TLSClientConfig.ServerName = ""
	switch {
	case cfg.InsecureSkipVerify:
		api.TLSClientConfig.Insecure, api.TLSClientConfig.CAFile, api.TLSClientConfig.CAData = true, "", nil
	case cfg.CAFile != "":
		api.TLSClientConfig.CAFile, api.TLSClientConfig.CAData = cfg.CAFile, nil
	}
	client, err := kubeapi.NewClient(api)
	if err != nil {
		return nil, fmt.Errorf("kubelet: %w", err)
	}
	return &kubelet{client: client, table: newTable(labels, nil), logger: logger, missed: make(chan struct{}, 1)}, nil
}

// lookup returns the pod that has the UID or the container, nil if it is not known. Then it will be asked for.
func (k *kubelet) lookup(uid, containerID string) *pod {
	p, _ := k.table.lookup(uid, containerID)
	if p == nil {
		select {
		case k.missed <- struct{}{}:
		default:
		}
	}
	return p
}

// run asks for what was missed until ctx ends.
func (k *kubelet) run(ctx context.Context) {
	for {
		select {
		case <-k.missed:
		case <-ctx.Done():
			return
		}
		if err := k.ask(ctx); err != nil && ctx.Err() == nil && !k.failed.Swap(true) {
			k.logger.Warn("The kubelet does not tell of its pods", zap.Error(err))
		}
		select {
		case <-time.After(kubeletPause):
		case <-ctx.Done():
			return
		}
	}
}

func (k *kubelet) ask(ctx context.Context) error {
	var list corev1.PodList
	if err := k.client.Get().AbsPath("/pods").Do(ctx).Into(&list); err != nil {
		return err
	}
	k.failed.Store(false)
	objs := make([]any, len(list.Items))
	for i := range list.Items {
		objs[i] = &list.Items[i]
	}
	return k.table.Replace(objs, "")
}
