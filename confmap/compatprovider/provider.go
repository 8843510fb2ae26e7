// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Package compatprovider is a configuration provider that reads the file of the documented ConfigMap, `debugmode`,
// `event_config` and `metric_config`, and gives the pipelines that do the same: `--config compat:/etc/config/config.yaml`. A
// later --config is merged over it, and a changed file acts as one of `filewatch:` does.
package compatprovider

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"
	"time"

	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/netexporter/netexporter/confmap/filewatchprovider"
)

// NewFactory returns the factory of the provider of the scheme `compat`.
func NewFactory() confmap.ProviderFactory {
	return filewatchprovider.NewFactoryFor("compat", func(content []byte) ([]byte, error) {
		return convert(content, discoverLoki)
	})
}

// file is the documented file. What is not set is nil.
type file struct {
	Debug   bool     `yaml:"debugmode"`
	Events  *events  `yaml:"event_config"`
	Metrics *metrics `yaml:"metric_config"`
	// Values are the documented values of the chart, for whoever has put them into a file.
	Values *values `yaml:"config"`
}

type events struct {
	Port        *int    `yaml:"port"`
	LokiEnable  *bool   `yaml:"loki_enable"`
	LokiAddress *string `yaml:"loki_address"`
	Probes      []probe `yaml:"probes"`
}

type metrics struct {
	Port     *int      `yaml:"port"`
	Verbose  *bool     `yaml:"verbose"`
	Interval *interval `yaml:"interval"`
	Probes   []probe   `yaml:"probes"`
}

type values struct {
	EnableEventServer  *bool   `yaml:"enableEventServer"`
	EnableMetricServer *bool   `yaml:"enableMetricServer"`
	RemoteLokiAddress  *string `yaml:"remoteLokiAddress"`
	MetricLabelVerbose *bool   `yaml:"metricLabelVerbose"`
	MetricServerPort   *int    `yaml:"metricServerPort"`
	EventServerPort    *int    `yaml:"eventServerPort"`
	MetricProbes       []probe `yaml:"metricProbes"`
	EventProbes        []probe `yaml:"eventProbes"`
}

// probe is the name of a probe, by itself or in a map with the key name.
type probe string

func (p *probe) UnmarshalYAML(node *yaml.Node) error {
	var named struct {
		Name string `yaml:"name"`
	}
	if node.Kind == yaml.MappingNode {
		if err := node.Decode(&named); err != nil {
			return err
		}
	} else if err := node.Decode(&named.Name); err != nil {
		return err
	}
	if named.Name == "" {
		return fmt.Errorf("line %d: a probe without a name", node.Line)
	}
	*p = probe(named.Name)
	if *p == "virtcmdlat" {
		*p = "virtcmdlatency" // as it is documented for events
	}
	return nil
}

// interval is a number of seconds, or a duration with its unit.
type interval time.Duration

func (i *interval) UnmarshalYAML(node *yaml.Node) error {
	var seconds float64
	if err := node.Decode(&seconds); err == nil {
		*i = interval(seconds * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: interval: %q is neither a number of seconds nor a duration", node.Line, node.Value)
	}
	*i = interval(d)
	return nil
}

// settings are what a file asks for.
type settings struct {
	Debug, Metrics, Events, Verbose, Loki bool
	MetricPort, EventPort                 int
	Interval                              time.Duration
	LokiEndpoint                          string
	MetricProbes, EventProbes             []probe
}

// pipelines is what the documented agent does, in the collector's terms.
//
//go:embed pipelines.yaml.tmpl
var pipelines string

// convert makes the collector's configuration of the documented one; discover finds Loki where there is no address.
func convert(content []byte, discover func() string) ([]byte, error) {
	var f file
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, inTheirTerms(err)
	}
	s, err := f.settings(discover)
	if err != nil {
		return nil, err
	}
	t, err := template.New("pipelines").Parse(pipelines)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, s)
	return out.Bytes(), err
}

// inTheirTerms names keys where the decoder names types of this package.
func inTheirTerms(err error) error {
	return errors.New(strings.NewReplacer(
		"yaml: unmarshal errors:\n  ", "",
		"not found in type compatprovider.file", "is no key of the file",
		"not found in type compatprovider.events", "is no key of event_config",
		"not found in type compatprovider.metrics", "is no key of metric_config",
		"not found in type compatprovider.values", "is no key of config",
		"into compatprovider.events", "into the keys of event_config",
		"into compatprovider.metrics", "into the keys of metric_config",
		"into compatprovider.values", "into the keys of config",
		"into compatprovider.file", "into keys",
	).Replace(err.Error()))
}

// set takes a value over if there is one.
func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// settings fills the documented defaults in. Of a key that is there in both spellings that of the ConfigMap holds.
func (f *file) settings(discover func() string) (settings, error) {
	s := settings{Debug: f.Debug, Metrics: true, Events: f.Events != nil, MetricPort: 9102, EventPort: 19102, Interval: 5 * time.Second}
	address := ""
	if v := f.Values; v != nil {
		set(&s.Events, v.EnableEventServer)
		set(&s.Metrics, v.EnableMetricServer)
		set(&s.Verbose, v.MetricLabelVerbose)
		set(&s.MetricPort, v.MetricServerPort)
		set(&s.EventPort, v.EventServerPort)
		set(&address, v.RemoteLokiAddress)
		s.Loki = address != ""
		s.MetricProbes, s.EventProbes = v.MetricProbes, v.EventProbes
	}
	if m := f.Metrics; m != nil {
		set(&s.MetricPort, m.Port)
		set(&s.Verbose, m.Verbose)
		set((*interval)(&s.Interval), m.Interval)
		if len(m.Probes) > 0 {
			s.MetricProbes = m.Probes
		}
	}
	if e := f.Events; e != nil {
		set(&s.EventPort, e.Port)
		set(&s.Loki, e.LokiEnable)
		set(&address, e.LokiAddress)
		if len(e.Probes) > 0 {
			s.EventProbes = e.Probes
		}
	}
	if s.Loki && s.Events {
		if address == "" {
			address = discover()
		}
		s.LokiEndpoint = lokiEndpoint(address)
	}
	return s, s.validate()
}

func (s settings) validate() error {
	var errs []error
	for _, p := range []struct {
		name string
		port int
	}{{"metric_config.port", s.MetricPort}, {"event_config.port", s.EventPort}} {
		if p.port < 1 || p.port > 65535 {
			errs = append(errs, fmt.Errorf("%s: must be a port, got %d", p.name, p.port))
		}
	}
	if s.Interval <= 0 {
		errs = append(errs, fmt.Errorf("metric_config.interval: must be greater than 0, got %s", s.Interval))
	}
	if !s.Metrics && !s.Events {
		errs = append(errs, errors.New("config.enableMetricServer or config.enableEventServer must be true: there is nothing to do"))
	}
	return errors.Join(errs...)
}

// Expiration is when the last sample of what is gone leaves the page: a bit under two collections.
func (s settings) Expiration() time.Duration { return 2*s.Interval - s.Interval/5 }

// defaultEvents are the probes that make events if none is named.
func defaultEvents() []probe { return []probe{"packetloss", "tcpreset", "tcptwrcv"} }

// DefaultProbes tells whether the receiver's default set runs.
func (s settings) DefaultProbes() bool { return s.Metrics && len(s.MetricProbes) == 0 }

// Probes are those that the receiver lists, and whether each makes events. A list that is not empty is the whole set of
// its kind. The receiver has one set for both, so an event probe that no metric was asked of serves its metrics all the
// same, and a metric probe that no event was asked of is told to make none.
func (s settings) Probes() map[probe]bool {
	if len(s.MetricProbes) == 0 && len(s.EventProbes) == 0 && s.Metrics {
		return nil // the receiver's own defaults
	}
	listed := map[probe]bool{}
	if s.Metrics {
		for _, p := range s.MetricProbes {
			listed[p] = false
		}
	}
	if !s.Events {
		return listed
	}
	if s.DefaultProbes() {
		for _, p := range defaultEvents() {
			listed[p] = false
		}
	}
	makers := s.EventProbes
	if len(makers) == 0 {
		makers = defaultEvents()
	}
	for p := range listed {
		listed[p] = slices.Contains(makers, p)
	}
	for _, p := range makers {
		listed[p] = true
	}
	return listed
}

// flow returns a list as YAML.
func flow(names ...string) string { return "[" + strings.Join(names, ", ") + "]" }

// MetricExporters are those of the metrics pipeline. The event stream serves the last metrics to `inspector list` and `top`.
func (s settings) MetricExporters() string {
	names := []string{"prometheus"}
	if s.Events {
		names = append(names, "eventstream")
	}
	if s.Debug {
		names = append(names, "debug")
	}
	return flow(names...)
}

// EventExporters are those of the logs pipeline.
func (s settings) EventExporters() string {
	names := []string{"stdout", "eventstream"}
	if s.Loki {
		names = append(names, "loki")
	}
	if s.Debug {
		names = append(names, "debug")
	}
	return flow(names...)
}
