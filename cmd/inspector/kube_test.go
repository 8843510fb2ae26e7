// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// agentPod is the pod of an agent.
func agentPod(node, ip string, port int32, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9102}, {Name: "events", ContainerPort: port}}},
		}},
		Status: corev1.PodStatus{Phase: phase, PodIP: ip},
	}
}

// apiServer answers with a list of pods, and returns a kubeconfig that leads to it.
func apiServer(t *testing.T, pods ...corev1.Pod) (kubeconfig string, asked *string) {
	t.Helper()
	asked = new(string)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.URL.String()
		w.Header().Set("Content-Type", "application/json")
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: pods}
		assert.NoError(t, json.NewEncoder(w).Encode(list))
	}))
	t.Cleanup(server.Close)
	kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server.URL), 0o600))
	return kubeconfig, asked
}

func TestKube(t *testing.T) {
	a := startAgent(t, nil)
	a.publish(t, state())
	var port int32
	_, err := fmt.Sscanf(a.address, "127.0.0.1:%d", &port)
	require.NoError(t, err)
	gone := agentPod("worker-4", "10.0.0.4", 1, corev1.PodRunning)
	gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	kubeconfig, asked := apiServer(t,
		agentPod("worker-2", "fd00::2", 7, corev1.PodRunning), agentPod("worker-3", "10.0.0.3", 1, corev1.PodPending),
		agentPod("worker-1", "127.0.0.1", port, corev1.PodRunning), gone)

	o := kubeOptions{file: kubeconfig, selector: agentSelector}
	addresses, err := o.find(t.Context(), timeout)
	require.NoError(t, err)
	assert.Equal(t, []string{a.address, "[fd00::2]:7"}, addresses)
	assert.Equal(t, "/api/v1/pods?labelSelector=app.kubernetes.io%2Fname%3Dnetexporter&timeout=1m0s", *asked)

	assert.Len(t, list(t, "probe", "--kube", "--kubeconfig", kubeconfig, "--kube-node", "worker-1"), 2)
	assert.Equal(t, defaultPort, streamPort(&corev1.Pod{}))
}

func TestKubeMistakes(t *testing.T) {
	kubeconfig, _ := apiServer(t, agentPod("worker-1", "10.0.0.1", 1, corev1.PodPending))
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "")
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"--kube -e 10.0.0.1", exitUsage, "leave -e and -s out"},
		{"--kube", exitUsage, "--kubeconfig names one"},
		{"--kube --kubeconfig /nonexistent", exitUsage, "/nonexistent"},
		{"--kube --kube-context nobody --kubeconfig " + kubeconfig, exitUsage, "nobody"},
		{"--kube --kube-selector a==,, --kubeconfig " + kubeconfig, exitUsage, "--kube-selector"},
		{"--kube --kubeconfig " + kubeconfig, exitFailure, "no pod with the labels"},
		{"--kube --kube-node worker-9 --kubeconfig " + kubeconfig, exitFailure, `on node "worker-9"`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			err := run(t, append([]string{"watch"}, strings.Fields(tt.args)...)...).wait(t)
			require.Error(t, err)
			assert.Equal(t, tt.code, exitCode(err), err)
			assert.ErrorContains(t, err, tt.says)
		})
	}
}
