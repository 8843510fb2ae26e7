// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
)

// How the API server is asked, the values of auth_type.
const (
	// authAuto is authServiceAccount within a pod, else authNone.
	authAuto = "auto"
	// authNone asks no API server.
	authNone = "none"
	// authServiceAccount takes the token that Kubernetes mounts into pods.
	authServiceAccount = "serviceAccount"
	// authKubeConfig takes the file that KUBECONFIG names, or that of the user.
	authKubeConfig = "kubeConfig"
)

// Config is the configuration of the processor.
type Config struct {
	// Node is the value of the label node. If empty, it is the first line of etc/hostname under RootPath,
	// and where that tells none, the host name of the kernel.
	Node string `mapstructure:"node"`

	// RootPath is where the root file system of the host is mounted, / if empty.
	RootPath string `mapstructure:"root_path"`

	// AuthType is how the API server is asked for the pods of this node: auto, serviceAccount, kubeConfig or none.
	AuthType string `mapstructure:"auth_type"`

	// Context is that of the kubeconfig, its current one if empty.
	Context string `mapstructure:"context"`

	// NodeFromEnvVar names the environment variable with the name that Kubernetes has for this node. If that is not
	// set, the name is that of the label node.
	NodeFromEnvVar string `mapstructure:"node_from_env_var"`

	// Kubelet is asked for a pod that the API server has not told of.
	Kubelet KubeletConfig `mapstructure:"kubelet"`

	// Verbose adds the addresses and labels of pods to metrics.
	Verbose bool `mapstructure:"verbose"`

	// PodLabels are the keys of the labels of pods that Verbose adds; "*" stands for all.
	PodLabels []string `mapstructure:"pod_labels"`
}

// KubeletConfig is how the kubelet of this node is asked. It is with the token that the API server is asked with, which
// must have the right to get nodes/pods (from Kubernetes 1.33 on) or nodes/proxy, which is the right to run commands in pods.
type KubeletConfig struct {
	// Endpoint is https://<address of the node>:10250; the kubelet is not asked if it is empty.
	Endpoint string `mapstructure:"endpoint"`

	// CAFile has the certificates of who may have signed the kubelet's; those of the API server, if empty.
	CAFile string `mapstructure:"ca_file"`

	// InsecureSkipVerify takes any certificate, as one that the kubelet has signed itself.
	InsecureSkipVerify bool `mapstructure:"insecure_skip_verify"`
}

// Validate returns an error for a root path that is not absolute, and for an auth type that there is not. It does not
// look at the host.
func (c *Config) Validate() error {
	if c.RootPath != "" && !filepath.IsAbs(c.RootPath) {
		return fmt.Errorf("root_path: must be an absolute path, got %q", c.RootPath)
	}
	types := []string{authAuto, authKubeConfig, authNone, authServiceAccount}
	if !slices.Contains(types, c.AuthType) {
		return fmt.Errorf("auth_type: must be one of %q, got %q", types, c.AuthType)
	}
	if c.Context != "" && c.AuthType != authKubeConfig {
		return fmt.Errorf("context: is of a kubeconfig, so auth_type must be %q, got %q", authKubeConfig, c.AuthType)
	}
	if k := c.Kubelet; k != (KubeletConfig{}) {
		switch u, err := url.Parse(k.Endpoint); {
		case err != nil || u.Scheme != "https" || u.Host == "":
			return fmt.Errorf("kubelet::endpoint: must be https://host:port, got %q", k.Endpoint)
		case c.AuthType == authNone:
			return fmt.Errorf("kubelet: is asked with the credentials of auth_type, which is %q", c.AuthType)
		case k.InsecureSkipVerify && k.CAFile != "":
			return errors.New("kubelet: ca_file has no meaning with insecure_skip_verify")
		}
	}
	return nil
}
