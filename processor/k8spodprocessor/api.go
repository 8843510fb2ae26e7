// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/netexporter/netexporter/internal/kubeapi"
)

// apiConfig returns how to reach the API server, nil if it shall not be asked.
func apiConfig(cfg *Config) (*rest.Config, error) {
	switch cfg.AuthType {
	case authNone:
		return nil, nil
	case authKubeConfig:
		api, err := kubeapi.KubeConfig("", cfg.Context)
		if err != nil {
			return nil, fmt.Errorf("auth_type %s: %w", cfg.AuthType, err)
		}
		return api, nil
	}
	api, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) && cfg.AuthType == authAuto {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("auth_type %s: %w", cfg.AuthType, err)
	}
	return api, nil
}

// contact is what is known of the connection to the API server.
type contact struct {
	logger *zap.Logger

	mu        sync.Mutex
	connected bool
	last      time.Time
	failed    bool // it has, since it was connected or since the start
}

// answered takes note of an answer, err nil, or of its failing. It logs what has changed, once.
func (c *contact) answered(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		if !c.connected {
			c.logger.Info("The API server tells of pods")
		}
		c.connected, c.failed, c.last = true, false, time.Now()
		return
	}
	if !c.failed {
		c.logger.Warn("The API server does not tell of pods: those that are known keep their names, new ones have no more than a name", zap.Error(err))
	}
	c.connected, c.failed = false, true
}

// state returns whether the API server answers, and when it last did, zero for never.
func (c *contact) state() (connected bool, last time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected, c.last
}

// watchPods keeps a table the same as the pods of a node are until ctx ends: by one request where the API server streams
// the list too, by a list and a watch where not. What fails is tried again, at longer and longer intervals, up to a minute.
func watchPods(ctx context.Context, client rest.Interface, node string, t *table, c *contact) {
	ofNode := fields.OneTermEqualSelector("spec.nodeName", node).String()
	pods := cache.NewFilteredListWatchFromClient(client, "pods", metav1.NamespaceAll, func(o *metav1.ListOptions) { o.FieldSelector = ofNode })
	list, watchFrom := pods.ListWithContextFunc, pods.WatchFuncWithContext
	tell := func(err error) {
		if ctx.Err() == nil {
			c.answered(err)
		}
	}
	pods.ListWithContextFunc = func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		found, err := list(ctx, o)
		tell(err)
		return found, err
	}
	pods.WatchFuncWithContext = func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
		w, err := watchFrom(ctx, o)
		tell(err)
		return w, err
	}
	var quiet klog.Logger // the zero one discards; what fails is told once, by c
	r := cache.NewReflectorWithOptions(pods, &corev1.Pod{}, t, cache.ReflectorOptions{
		Name: "k8spod", Logger: &quiet, Clock: &clockUntil{ctx: ctx},
	})
	r.RunWithContext(klog.NewContext(ctx, quiet))
}

// clockUntil is the clock of a reflector that shall end with ctx. Between the tries of a streamed list, a reflector waits
// for its clock alone.
type clockUntil struct {
	clock.RealClock
	ctx context.Context
}

// After returns a channel that tells when the time has passed, or ctx ended.
func (c *clockUntil) After(d time.Duration) <-chan time.Time {
	after := make(chan time.Time, 1)
	go func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case now := <-timer.C:
			after <- now
		case <-c.ctx.Done():
			after <- time.Now()
		}
	}()
	return after
}
