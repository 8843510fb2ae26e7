// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package kubeapi is a client of the Kubernetes API server that knows pods and nothing else: all kinds that there are would cost
// megabytes.
package kubeapi

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// KubeConfig returns how to reach the API server by a kubeconfig: file, or where that is empty $KUBECONFIG or
// ~/.kube/config, or in a pod its service account. The current context is taken if context is empty.
func KubeConfig(file, context string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = file
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: context}).ClientConfig()
}

// NewClient returns a client for pods.
func NewClient(api *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	api = rest.CopyConfig(api)
	api.APIPath = "/api"
	api.GroupVersion = &corev1.SchemeGroupVersion
	api.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	api.ContentType = runtime.ContentTypeProtobuf
	api.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	api.WarningHandlerWithContext = rest.NoWarnings{}
	client, err := rest.RESTClientFor(api)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	return client, nil
}
