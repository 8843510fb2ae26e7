// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configauth"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/config/configtls"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/netexporter/netexporter/exporter/eventstreamexporter"
)

var update = flag.Bool("update", false, "write the help texts into docs/inspector.md")

// What is said of mistakes, and the exit codes.
func TestMistakes(t *testing.T) {
	a := startAgent(t, nil)
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"wtch", exitUsage, `unknown command "wtch"`},
		{"list everything", exitUsage, `unknown command "everything"`},
		{"list entity web", exitUsage, "takes no arguments"},
		{"selftest nonsense", exitUsage, `no probe "nonsense"`},
		{"btf discovre", exitUsage, `unknown command "discovre"`},
		{"btf discover /boot", exitUsage, "takes no arguments"},
		{"top web", exitUsage, "takes no arguments"},
		{"watch --colour", exitUsage, "unknown flag: --colour; see inspector watch --help"},
		{"watch -o xml", exitUsage, "must be text, json or wide"},
		{"list probe -o xml", exitUsage, "must be table, json or yaml"},
		{"watch --since later", exitUsage, "as 10m"},
		{"watch --count -1", exitUsage, "0 or more"},
		{"watch --port 70000", exitUsage, "at most 65535"},
		{"watch --color perhaps", exitUsage, "auto, always or never"},
		{"watch -e http://a", exitUsage, "must be as 10.0.0.1"},
		{"watch --bearer-token-file /nonexistent", exitUsage, "add --tls"},
		{"watch --tls --bearer-token-file /nonexistent", exitUsage, "no such file"},
		{"watch --tls-ca-file /nonexistent", exitUsage, "/nonexistent"},
		{"top -e " + a.address, exitUsage, "top needs a terminal"},
		{"top --once --sort age -e " + a.address, exitUsage, "must be drops"},
		{"watch --address 10.0 -e " + a.address, exitUsage, "must be an IP address"},
		{"list entity --netns blue -e " + a.address, exitUsage, "must be an inode number"},
		{"watch --tls -e " + a.address, exitFailure, "leave --tls out"},
		{"watch -e " + freeAddress(t), exitFailure, "does the agent run there"},
		{"list probe -e " + freeAddress(t), exitFailure, "does the agent run there"},
		{"top --once -e " + freeAddress(t), exitFailure, "does the agent run there"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			err := run(t, strings.Fields(tt.args)...).wait(t)
			require.Error(t, err)
			assert.Equal(t, tt.code, exitCode(err), err)
			assert.ErrorContains(t, err, tt.says)
		})
	}
}

// One who takes connections and never says a word.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for _, command := range []string{"watch", "list entity", "list metric", "list probe", "top --once"} {
		err := run(t, append(strings.Fields(command), "--timeout", "100ms", "-e", l.Addr().String())...).wait(t)
		assert.Equal(t, exitFailure, exitCode(err))
		assert.ErrorContains(t, err, l.Addr().String(), command)
	}
}

// certificates are files of a certificate for 127.0.0.1 that signs itself.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agent"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	write := func(name, kind string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600))
		return path
	}
	return write("cert.pem", "CERTIFICATE", cert), write("key.pem", "PRIVATE KEY", raw)
}

func TestTLS(t *testing.T) {
	certFile, keyFile := certificate(t)
	a := startAgent(t, func(c *eventstreamexporter.Config) {
		server := configtls.NewDefaultServerConfig()
		server.CertFile, server.KeyFile = certFile, keyFile
		server.ClientCAFile = certFile // who asks must have the certificate, too
		c.ServerConfig.TLS = configoptional.Some(server)
	})
	a.publish(t, state())
	own := []string{"--tls-cert-file", certFile, "--tls-key-file", keyFile}
	c := run(t, append([]string{"list", "probe", "-e", a.address, "--tls-ca-file", certFile}, own...)...)
	require.NoError(t, c.wait(t))
	assert.Len(t, c.out.lines(), 2)

	otherCert, otherKey := certificate(t)
	with := func(args ...string) []string { return append(args, own...) }
	for _, tt := range []struct {
		name, says string
		args       []string
	}{
		{"no TLS", "the server may want TLS", nil},
		{"CA of the system", "--tls-ca-file names", with("--tls")},
		{"other CA", "--tls-ca-file names", with("--tls-ca-file", otherCert)},
		{"other name", "--tls-server-name is the name", with("--tls-ca-file", certFile, "--tls-server-name", "other")},
		{"no certificate", "--tls-cert-file and --tls-key-file", []string{"--tls-ca-file", certFile}},
		{"other certificate", "--tls-cert-file and --tls-key-file", []string{"--tls-ca-file", certFile, "--tls-cert-file", otherCert, "--tls-key-file", otherKey}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, command := range []string{"list probe", "watch", "top --once"} {
				err := run(t, slices.Concat(strings.Fields(command), []string{"-e", a.address}, tt.args)...).wait(t)
				require.ErrorContains(t, err, a.address+": ", command)
				require.ErrorContains(t, err, tt.says, command)
				assert.Equal(t, exitFailure, exitCode(err))
			}
		})
	}
	err := run(t, slices.Concat([]string{"list", "probe", "-e", a.address, "--tls-skip-verify"}, own)...).wait(t)
	assert.NoError(t, err)
}

// token is an authenticator of a server: it lets one token in.
type token struct {
	component.StartFunc
	component.ShutdownFunc
	value string
}

func (a token) Authenticate(ctx context.Context, sources map[string][]string) (context.Context, error) {
	if !slices.Equal(sources["authorization"], []string{"Bearer " + a.value}) {
		return nil, errors.New("not that token")
	}
	return ctx, nil
}

func TestBearerToken(t *testing.T) {
	certFile, keyFile := certificate(t)
	id := component.MustNewID("bearertokenauth")
	address := freeAddress(t)
	startAgentIn(t, host{id: token{value: "secret"}}, address, func(c *eventstreamexporter.Config) {
		server := configtls.NewDefaultServerConfig()
		server.CertFile, server.KeyFile = certFile, keyFile
		c.ServerConfig.TLS = configoptional.Some(server)
		c.ServerConfig.Auth = configoptional.Some(configauth.Config{AuthenticatorID: id})
	})
	ask := func(args ...string) error {
		return run(t, append([]string{"list", "probe", "-e", address, "--tls-ca-file", certFile}, args...)...).wait(t)
	}
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("secret\n"), 0o600))
	require.NoError(t, ask("--bearer-token-file", file))

	require.NoError(t, os.WriteFile(file, []byte("wrong"), 0o600))
	for _, args := range [][]string{nil, {"--bearer-token-file", file}} {
		err := ask(args...)
		require.ErrorContains(t, err, "the server wants to know who asks")
		assert.Equal(t, exitFailure, exitCode(err))
	}
}

// A server cuts off who asks more often than it allows whether the connection holds.
func TestPings(t *testing.T) {
	cfg := eventstreamexporter.NewFactory().CreateDefaultConfig().(*eventstreamexporter.Config)
	policy := cfg.ServerConfig.Keepalive.Get().EnforcementPolicy.Get()
	assert.Less(t, policy.MinTime, pingInterval)
	assert.Positive(t, policy.MinTime, "0 is gRPC's default of five minutes")
}

// A name that there is not takes a resolver to be said so.
func TestUnknownNode(t *testing.T) {
	n := node{address: "worker-9:19102"}
	err := n.explain(status.Error(codes.Unavailable,
		`connection error: desc = "transport: Error while dialing: dial tcp: lookup worker-9: no such host"`))
	assert.EqualError(t, err, "worker-9:19102: dial tcp: lookup worker-9: no such host (DNS does not know that name: take the node's address)")
}

func TestVersion(t *testing.T) {
	manifest, err := os.ReadFile("../../builder-config.yaml")
	require.NoError(t, err)
	assert.Contains(t, string(manifest), "\n  version: "+version+"\n", "one version for both programs")
	c := run(t, "--version")
	require.NoError(t, c.wait(t))
	assert.Equal(t, "inspector version "+version+"\n", c.out.String())
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{
		"watch -o ":       "json",
		"watch --color ":  "never",
		"watch --type ":   "TCPRESET_NOSOCK",
		"list entity -o ": "yaml",
		"top --sort ":     "retrans",
		"list ":           "probe",
	} {
		c := run(t, append([]string{cobra.ShellCompNoDescRequestCmd}, strings.Split(args, " ")...)...)
		require.NoError(t, c.wait(t))
		assert.Contains(t, c.out.lines(), want, args)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		c := run(t, "completion", shell)
		require.NoError(t, c.wait(t))
		assert.NotEmpty(t, c.out.String())
	}
}

var helpBlock = regexp.MustCompile("(?ms)^```console\n\\$ (inspector[^\n]*) --help\n.*?^```$")

// docs/inspector.md has the help of every command, as it is.
func TestGoldenHelp(t *testing.T) {
	const path = "../../docs/inspector.md"
	was, err := os.ReadFile(path)
	require.NoError(t, err)
	shown := map[string]bool{}
	now := helpBlock.ReplaceAllFunc(was, func(block []byte) []byte {
		name := string(helpBlock.FindSubmatch(block)[1])
		shown[name] = true
		var out bytes.Buffer
		root := newCommand()
		root.SetOut(&out)
		root.SetArgs(append(strings.Fields(name)[1:], "--help"))
		require.NoError(t, root.Execute())
		return []byte("```console\n$ " + name + " --help\n" + strings.TrimRight(out.String(), "\n") + "\n```")
	})
	if *update {
		require.NoError(t, os.WriteFile(path, now, 0o644))
		was = now
	}
	assert.Equal(t, string(now), string(was), "make golden")

	var each func(*cobra.Command)
	each = func(c *cobra.Command) {
		if c.Name() == "completion" || c.Name() == "help" {
			return
		}
		assert.True(t, shown[c.CommandPath()], "%s is not in %s", c.CommandPath(), path)
		for _, sub := range c.Commands() {
			each(sub)
		}
	}
	each(newCommand())
}
