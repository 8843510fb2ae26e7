// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package lokiexporter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/golang/snappy"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/config/configopaque"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/exporterhelper"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/netexporter/netexporter/exporter/lokiexporter/internal/metadata"
)

// maxAnswer is how much of Loki's answer to a refused push becomes part of the error, in bytes.
const maxAnswer = 1024

const (
	headerTenant = "X-Scope-OrgID"

	reasonNoLabels = "no_labels"
)

// pusher sends log records to Loki.
type pusher struct {
	cfg     *Config
	set     component.TelemetrySettings
	labels  labeller
	dropped metric.Int64Counter
	tenant  string       // of records without a hint, by the configured headers
	client  *http.Client // from start on
}

func newPusher(cfg *Config, set exporter.Settings) (*pusher, error) {
	telemetry, err := metadata.NewTelemetryBuilder(set.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	return &pusher{
		cfg:     cfg,
		set:     set.TelemetrySettings,
		labels:  labeller{on: cfg.enabled(), types: make(map[string]bool)},
		dropped: telemetry.NetexporterLokiDropped,
	}, nil
}

func (p *pusher) start(ctx context.Context, host component.Host) (err error) {
	client := p.cfg.ClientConfig
	// The client's headers replace those of a request, and would do so with the tenant that a hint names.
	client.Headers = slices.DeleteFunc(slices.Clone(client.Headers), func(h configopaque.Pair) bool {
		found := http.CanonicalHeaderKey(h.Name) == http.CanonicalHeaderKey(headerTenant)
		if found {
			p.tenant = string(h.Value)
		}
		return found
	})
	p.client, err = client.ToClient(ctx, host.GetExtensions(), p.set)
	return err
}

func (p *pusher) shutdown(context.Context) error {
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	return nil
}

// push sends records, a request for each tenant. What is tried again are only the records of tenants for which that may help.
func (p *pusher) push(ctx context.Context, ld plog.Logs) error {
	requests, unlabelled := p.labels.requests(ld)
	var permanent, temporary error
	if unlabelled > 0 {
		p.drop(ctx, unlabelled, reasonNoLabels)
		permanent = fmt.Errorf("%d log records without any label, which Loki does not store", unlabelled)
	}
	again := make(map[string]bool) // tenants
	for tenant, r := range requests {
		err := p.send(ctx, tenant, r)
		if consumererror.IsPermanent(err) {
			permanent = errors.Join(permanent, err)
		} else if err != nil {
			temporary = errors.Join(temporary, err)
			again[tenant] = true
		}
	}
	switch {
	case temporary == nil && permanent == nil:
		return nil
	case temporary == nil:
		return consumererror.NewPermanent(permanent)
	case permanent == nil && len(again) == len(requests):
		return temporary
	case permanent != nil:
		temporary = fmt.Errorf("%w; dropped: %v", temporary, permanent) //nolint:errorlint // wrapped, it would make all permanent
	}
	rest := plog.NewLogs()
	ld.CopyTo(rest)
	keepTenants(rest, again)
	return consumererror.NewLogs(temporary, rest)
}

// send sends one request. The error is permanent if Loki would refuse the same again.
func (p *pusher) send(ctx context.Context, tenant string, r *request) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.cfg.ClientConfig.Endpoint, bytes.NewReader(snappy.Encode(nil, r.body())))
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if tenant = cmp.Or(tenant, p.tenant); tenant != "" {
		req.Header.Set(headerTenant, tenant)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return fmt.Errorf("push to Loki: %w", err)
	}
	defer resp.Body.Close()
	// Read to the end, as far as that is near: the connection is used again.
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return nil
	}

	err = fmt.Errorf("push to Loki: %s: %s", resp.Status, strings.TrimSpace(string(answer)))
	// 4xx: the request is at fault, and will be so again. 429 is about its time.
	if resp.StatusCode >= 400 && resp.StatusCode <= 499 && resp.StatusCode != http.StatusTooManyRequests {
		p.drop(ctx, r.records, "status_"+strconv.Itoa(resp.StatusCode))
		return consumererror.NewPermanent(err)
	}
	if seconds, e := strconv.Atoi(resp.Header.Get("Retry-After")); e == nil {
		return exporterhelper.NewThrottleRetry(err, time.Duration(seconds)*time.Second)
	}
	return err
}

// drop counts records that are lost.
func (p *pusher) drop(ctx context.Context, records int, reason string) {
	p.dropped.Add(ctx, int64(records), metric.WithAttributes(attribute.String("reason", reason)))
}
