// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap/confmaptest"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

func TestConfig(t *testing.T) {
	conf, err := confmaptest.LoadConf(filepath.Join("testdata", "config.yaml"))
	require.NoError(t, err)
	for _, tt := range []struct {
		name    string
		want    Config
		wantErr string
	}{
		{name: "", want: Config{AuthType: "auto", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"}}},
		{name: "all", want: Config{
			Node: "worker-1", RootPath: "/host", AuthType: "kubeConfig", Context: "test", NodeFromEnvVar: "NODE",
			Kubelet: KubeletConfig{Endpoint: "https://10.0.0.1:10250", CAFile: "/etc/kubelet-ca.crt"},
			Verbose: true, PodLabels: []string{"app", "app.kubernetes.io/name"},
		}},
		{
			name:    "relative",
			want:    Config{RootPath: "host", AuthType: "none", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"}},
			wantErr: `root_path: must be an absolute path, got "host"`,
		},
		{
			name:    "auth",
			want:    Config{AuthType: "kubeconfig", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"}},
			wantErr: `auth_type: must be one of ["auto" "kubeConfig" "none" "serviceAccount"], got "kubeconfig"`,
		},
		{
			name:    "context",
			want:    Config{AuthType: "auto", Context: "test", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"}},
			wantErr: `context: is of a kubeconfig, so auth_type must be "kubeConfig", got "auto"`,
		},
		{
			name: "kubelet_endpoint",
			want: Config{
				AuthType: "auto", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"},
				Kubelet: KubeletConfig{Endpoint: "http://10.0.0.1:10255"},
			},
			wantErr: `kubelet::endpoint: must be https://host:port, got "http://10.0.0.1:10255"`,
		},
		{
			name: "kubelet_none",
			want: Config{
				AuthType: "none", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"},
				Kubelet: KubeletConfig{Endpoint: "https://10.0.0.1:10250"},
			},
			wantErr: `kubelet: is asked with the credentials of auth_type, which is "none"`,
		},
		{
			name: "kubelet_ca",
			want: Config{
				AuthType: "auto", NodeFromEnvVar: "K8S_NODE_NAME", PodLabels: []string{"*"},
				Kubelet: KubeletConfig{Endpoint: "https://10.0.0.1:10250", CAFile: "/ca.crt", InsecureSkipVerify: true},
			},
			wantErr: "kubelet: ca_file has no meaning with insecure_skip_verify",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sub, err := conf.Sub(component.NewIDWithName(metadata.Type, tt.name).String())
			require.NoError(t, err)
			cfg := NewFactory().CreateDefaultConfig()
			require.NoError(t, sub.Unmarshal(cfg))
			assert.Equal(t, &tt.want, cfg)
			err = cfg.(*Config).Validate()
			if tt.wantErr == "" {
				assert.NoError(t, err)
			} else {
				assert.EqualError(t, err, tt.wantErr)
			}
		})
	}
}
