// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

//go:build !windows

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/service"
	"go.opentelemetry.io/collector/service/telemetry"

	"github.com/netexporter/netexporter/exporter/eventstreamexporter"
	"github.com/netexporter/netexporter/internal/reload"
	"github.com/netexporter/netexporter/receiver/netexporterreceiver"
)

// run takes the place of what ocb would have here (main_others.go). It owns what must outlive the components, which
// the collector makes anew at each change of the configuration: the kernel side of the receiver, what the event stream
// remembers, and the guard of the configuration.
func run(set otelcol.CollectorSettings) (err error) {
	// Until the collector listens, SIGHUP must not end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)

	keeper := netexporterreceiver.NewKeeper()
	defer func() { err = errors.Join(err, keeper.Close()) }()
	set.Factories = keeping(keeper, eventstreamexporter.NewKeeper())

	cmd := otelcol.NewCommand(set)
	uris := recordLocations(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(*uris) == 0 {
			return errors.New("at least one config flag must be provided")
		}
		resolver := &set.ConfigProviderSettings.ResolverSettings
		resolver.URIs, resolver.DefaultScheme = *uris, "env"
		return supervise(cmd.Context(), set)
	}
	return cmd.Execute()
}

// keeping returns the factories that ocb has listed, with receivers whose kernel side is kept, and event streams whose memory is.
func keeping(keeper *netexporterreceiver.Keeper, streams *eventstreamexporter.Keeper) func() (otelcol.Factories, error) {
	return func() (otelcol.Factories, error) {
		factories, err := components()
		if err != nil {
			return factories, err
		}
		receiver := keeper.NewFactory()
		factories.Receivers[receiver.Type()] = receiver
		stream := streams.NewFactory()
		factories.Exporters[stream.Type()] = stream
		return factories, nil
	}
}

// supervise runs a collector until it ends for another reason than a configuration that it cannot take over.
func supervise(ctx context.Context, set otelcol.CollectorSettings) error {
	guard := reload.New(set.ConfigProviderSettings.ResolverSettings, check(set))
	defer func() { _ = guard.Close(context.WithoutCancel(ctx)) }()
	set.ConfigProviderSettings.ResolverSettings = guard.Settings()
	factories := set.Factories
	set.Factories = func() (otelcol.Factories, error) {
		f, err := factories()
		if err == nil {
			f.Telemetry = observed(f.Telemetry, guard)
		}
		return f, err
	}
	for {
		collector, err := otelcol.NewCollector(set)
		if err != nil {
			return err
		}
		err = collector.Run(ctx)
		// A collector that ends during a reload is left in the state that it was in.
		switch collector.GetState() {
		case otelcol.StateClosing: // it could not stop in order
		case otelcol.StateStarting:
			if !guard.RollBack(err) {
				return err
			}
		default:
			return err
		}
	}
}

// check returns what tells whether the collector can be built with a configuration; whether it can start, only
// starting tells.
func check(set otelcol.CollectorSettings) reload.Check {
	return func(ctx context.Context, resolver confmap.ResolverSettings) (err error) {
		// Configurations come from users, and components are many.
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("check the configuration: %v", r)
			}
		}()
		factories, err := set.Factories()
		if err != nil {
			return err
		}
		provider, err := otelcol.NewConfigProvider(otelcol.ConfigProviderSettings{ResolverSettings: resolver})
		if err != nil {
			return err
		}
		cfg, err := provider.Get(ctx, factories)
		if err = errors.Join(err, provider.Shutdown(ctx)); err != nil {
			return err
		}
		if err := confmap.Validate(cfg); err != nil {
			return err
		}
		return service.Validate(ctx, service.Settings{
			BuildInfo:           set.BuildInfo,
			ReceiversConfigs:    cfg.Receivers,
			ReceiversFactories:  factories.Receivers,
			ProcessorsConfigs:   cfg.Processors,
			ProcessorsFactories: factories.Processors,
			ExportersConfigs:    cfg.Exporters,
			ExportersFactories:  factories.Exporters,
			ConnectorsConfigs:   cfg.Connectors,
			ConnectorsFactories: factories.Connectors,
			TelemetryFactory:    factories.Telemetry,
		}, cfg.Service)
	}
}

// observed returns a factory of telemetry that the guard's metrics are a part of.
func observed(f telemetry.Factory, guard *reload.Guard) telemetry.Factory {
	return telemetry.NewFactory(f.CreateDefaultConfig,
		telemetry.WithCreateResource(f.CreateResource),
		telemetry.WithCreateLogger(f.CreateLogger),
		telemetry.WithCreateMeterProvider(func(ctx context.Context, set telemetry.MeterSettings, cfg component.Config) (telemetry.MeterProvider, error) {
			provider, err := f.CreateMeterProvider(ctx, set, cfg)
			if err != nil {
				return nil, err
			}
			return provider, guard.Register(provider.Meter("github.com/netexporter/netexporter/internal/reload"))
		}),
		telemetry.WithCreateTracerProvider(f.CreateTracerProvider))
}

// recordLocations notes what the flags of the collector's command say of where its configuration is.
func recordLocations(cmd *cobra.Command) *[]string {
	var configs, sets, all []string
	record := func(name string, note func(string)) {
		flag := cmd.Flags().Lookup(name)
		flag.Value = noted{flag.Value, func(value string) {
			note(value)
			all = append(append(all[:0], configs...), sets...)
		}}
	}
	record("config", func(value string) { configs = append(configs, value) })
	record("set", func(value string) {
		key, value, _ := strings.Cut(value, "=")
		sets = append(sets, "yaml:"+strings.TrimSpace(strings.ReplaceAll(key, ".", "::"))+": "+strings.TrimSpace(value))
	})
	return &all
}

// noted is the value of a flag that somebody takes note of.
type noted struct {
	pflag.Value
	note func(string)
}

func (n noted) Set(value string) error {
	if err := n.Value.Set(value); err != nil {
		return err
	}
	n.note(value)
	return nil
}
