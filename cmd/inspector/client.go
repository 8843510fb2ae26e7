// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/collector/config/configtls"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	eventstreamv1 "github.com/netexporter/netexporter/api/eventstream/v1"
)

const (
	defaultHost = "127.0.0.1"
	defaultPort = 19102

	// A node that is gone says nothing: it is asked so often, and has so long to answer.
	pingInterval = 15 * time.Second
	pingTimeout  = 10 * time.Second
)

// connection is how to reach agents: the flags that all commands have that ask some.
type connection struct {
	addresses []string
	kube      kubeOptions
	timeout   time.Duration

	tls        bool
	tlsConfig  configtls.ClientConfig
	bearerFile string
}

func (c *connection) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVarP(&c.addresses, "event-service", "e", nil, "`address` of the event stream of a node, with or without a port; default 127.0.0.1:19102")
	f.StringSliceVarP(&c.addresses, "server", "s", nil, "the same as -e; either may be given several times, for several nodes")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long to wait for an agent to answer")
	f.BoolVar(&c.tls, "tls", false, "use TLS; any other flag of TLS implies it")
	f.StringVar(&c.tlsConfig.CAFile, "tls-ca-file", "", "`file` with the certificates that sign the server's; default those of the system")
	f.StringVar(&c.tlsConfig.CertFile, "tls-cert-file", "", "`file` with the own certificate, where the server asks for one")
	f.StringVar(&c.tlsConfig.KeyFile, "tls-key-file", "", "`file` with the key of the own certificate")
	f.StringVar(&c.tlsConfig.ServerName, "tls-server-name", "", "`name` that the server's certificate must have; default its address")
	f.BoolVar(&c.tlsConfig.InsecureSkipVerify, "tls-skip-verify", false, "take any certificate: whoever answers may be somebody else")
	f.StringVar(&c.bearerFile, "bearer-token-file", "", "`file` with a token to authenticate with; it takes TLS")
	c.kube.addFlags(cmd)
}

// node is an agent to ask.
type node struct {
	address    string
	secure     bool // by TLS
	connection *grpc.ClientConn
	eventstreamv1.EventStreamClient
}

// nodes connects to all agents. It fails for what is wrong by itself; whether they answer shows later.
func (c *connection) nodes(ctx context.Context) ([]*node, error) {
	addresses, err := c.resolve(ctx)
	if err != nil {
		return nil, err
	}
	options, err := c.dialOptions(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []*node
	for _, address := range addresses {
		conn, err := grpc.NewClient("passthrough:///"+address, options...)
		if err != nil {
			return nil, usagef("%s: %w", address, err)
		}
		nodes = append(nodes, &node{address, c.usesTLS(), conn, eventstreamv1.NewEventStreamClient(conn)})
	}
	return nodes, nil
}

// resolve returns the addresses of the agents that are asked for.
func (c *connection) resolve(ctx context.Context) ([]string, error) {
	given := c.addresses
	if c.kube.enabled {
		if len(given) > 0 {
			return nil, usagef("--kube finds the agents by itself: leave -e and -s out")
		}
		found, err := c.kube.find(ctx, c.timeout)
		if err != nil {
			return nil, err
		}
		given = found
	}
	if len(given) == 0 {
		given = []string{defaultHost}
	}
	var (
		addresses []string
		seen      = map[string]bool{}
	)
	for _, a := range given {
		address, err := parseAddress(a)
		if err != nil {
			return nil, err
		}
		if !seen[address] {
			seen[address] = true
			addresses = append(addresses, address)
		}
	}
	return addresses, nil
}

// parseAddress completes host, host:port, and IPv6 addresses with and without brackets.
func parseAddress(text string) (string, error) {
	bad := func(why string) (string, error) {
		return "", usagef("address %q: %s; it must be as 10.0.0.1, [fd00::1]:19102 or worker-1:19102", text, why)
	}
	host, port := strings.TrimSpace(text), strconv.Itoa(defaultPort)
	switch bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"); {
	case host == "":
		return bad("is empty")
	case strings.Contains(host, "/"):
		return bad("is no address")
	case net.ParseIP(bare) != nil:
		host = bare
	case strings.Contains(host, ":"):
		var err error
		if host, port, err = net.SplitHostPort(host); err != nil {
			return bad("cannot be read")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return bad("has no port from 1 to 65535")
		}
		if host == "" {
			host = defaultHost
		}
	}
	return net.JoinHostPort(host, port), nil
}

func (c *connection) dialOptions(ctx context.Context) ([]grpc.DialOption, error) {
	options := []grpc.DialOption{
		grpc.WithUserAgent("inspector"),
		grpc.WithNoProxy(), // agents are asked directly
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16 << 20)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingInterval, Timeout: pingTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
			MinConnectTimeout: c.timeout,
		}),
	}
	if !c.usesTLS() {
		if c.bearerFile != "" {
			return nil, usagef("--bearer-token-file: a token is not sent without TLS: add --tls")
		}
		return append(options, grpc.WithTransportCredentials(insecure.NewCredentials())), nil
	}
	config, err := c.tlsConfig.LoadTLSConfig(ctx)
	if err != nil {
		return nil, usageError{err}
	}
	if config == nil { // nothing but the defaults
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if c.bearerFile != "" {
		if _, err := os.Stat(c.bearerFile); err != nil {
			return nil, usagef("--bearer-token-file: %w", err)
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer{c.bearerFile}))
	}
	return options, nil
}

func (c *connection) usesTLS() bool {
	t := &c.tlsConfig
	return c.tls || t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != "" || t.InsecureSkipVerify
}

// bearer reads the token for each call: it may change.
type bearer struct{ file string }

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	token, err := os.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(token))}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// begin takes the first step of a stream. A server that accepts connections and never answers must not hold us up.
func begin(cancel context.CancelFunc, timeout time.Duration, step func() error) error {
	patience := time.AfterFunc(timeout, cancel)
	err := step()
	if !patience.Stop() {
		return status.Error(codes.DeadlineExceeded, "")
	}
	return notEOF(err)
}

// notEOF turns the end of a stream that should go on into an error as of a call.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return status.Error(codes.Unavailable, "the stream has ended")
	}
	return err
}

// callError is a call that an agent did not answer as it should.
type callError struct {
	code codes.Code
	text string
}

func (e *callError) Error() string { return e.text }

// explain says what an error of a call means for the user.
func (n *node) explain(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	text := s.Message()
	hint := ""
	switch s.Code() {
	case codes.DeadlineExceeded:
		text = "no answer in time"
		hint = "is that the node's address, and the port open? --timeout waits longer"
	case codes.Unauthenticated:
		hint = "the server wants to know who asks: --bearer-token-file, or --tls-cert-file and --tls-key-file"
	case codes.Unimplemented:
		hint = "is this the event stream of netexporter?"
	case codes.Unavailable:
		text, hint = explainUnavailable(text, n.secure)
	}
	if hint != "" {
		text += " (" + hint + ")"
	}
	call := &callError{s.Code(), n.address + ": " + text}
	if s.Code() == codes.InvalidArgument {
		return usageError{call}
	}
	return call
}

// explainUnavailable tells apart what gRPC does not.
func explainUnavailable(text string, secure bool) (cause, hint string) {
	// connection error: desc = "transport: Error while dialing: dial tcp ...: connect: connection refused"
	cause = text
	if _, desc, ok := strings.Cut(text, "desc = "); ok {
		cause = desc
		if quoted, err := strconv.QuotedPrefix(desc); err == nil {
			unquoted, _ := strconv.Unquote(quoted) // it is quoted
			cause = unquoted + desc[len(quoted):]
		}
		cause = strings.TrimPrefix(cause, "transport: ")
		cause = strings.TrimPrefix(cause, "Error while dialing: ")
	}
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case says("connection refused"):
		return cause, "does the agent run there, with the exporter eventstream listening on that address?"
	case says("no such host"):
		return cause, "DNS does not know that name: take the node's address"
	case says("first record does not look like a TLS handshake"):
		return cause, "the server does not use TLS: leave --tls out"
	case says("HTTP/1.1 header"):
		return cause, "that port speaks HTTP/1: is it the event stream's?"
	// A server that wants a certificate says so only after the handshake is done for us (TLS 1.3), and closes: what we
	// send first may get that answer or none.
	case says("tls: certificate required", "tls: bad certificate", "tls: unknown certificate authority"),
		secure && says("connection reset by peer", "broken pipe", "error reading server preface"):
		return cause, "the server may want a certificate of its clients: --tls-cert-file and --tls-key-file"
	case says("connection reset by peer", "broken pipe", "error reading server preface"):
		return cause, "the server may want TLS: --tls, --tls-ca-file"
	case says("certificate signed by unknown authority", "certificate is not trusted"):
		return cause, "--tls-ca-file names the certificate that signed the server's"
	case says("x509: certificate is valid for", "x509: cannot validate certificate", "x509: certificate is not valid for any names"):
		return cause, "--tls-server-name is the name that the certificate has"
	case says("tls: ", "x509: "):
		return cause, "see the flags of TLS"
	}
	return cause, ""
}
