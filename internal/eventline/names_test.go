// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package eventline

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// metadata is the part of a component's metadata.yaml that declares names.
type metadata struct {
	ResourceAttributes map[string]any `yaml:"resource_attributes"`
	Attributes         map[string]any `yaml:"attributes"`
	Events             map[string]struct {
		Attributes []string `yaml:"attributes"`
	} `yaml:"events"`
}

func readMetadata(t *testing.T, path string) metadata {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var m metadata
	require.NoError(t, yaml.Unmarshal(data, &m))
	return m
}

// The names have one source, the metadata.yaml files: each constant of this package must be declared there.
func TestNamesAreDeclared(t *testing.T) {
	receiver := readMetadata(t, "../../receiver/netexporterreceiver/metadata.yaml")
	processor := readMetadata(t, "../../processor/k8spodprocessor/metadata.yaml")

	names := constants(t, "eventline.go")
	require.NotEmpty(t, names)
	for constant, name := range names {
		switch {
		case strings.HasPrefix(constant, "keyLabel"):
			assert.Contains(t, processor.ResourceAttributes, name, constant)
		case constant == "KeyContainerID", constant == "KeyNetnsName":
			assert.Contains(t, receiver.ResourceAttributes, name, constant)
		case strings.HasPrefix(strings.ToLower(constant), "key"):
			assert.Contains(t, receiver.Attributes, name, constant)
		case strings.HasPrefix(constant, "event"):
			assert.Contains(t, receiver.Events, name, constant)
		default:
			assert.Fail(t, "no rule for the constant "+constant)
		}
	}

	// What the line of an event shows must be recorded with it.
	for event, declared := range receiver.Events {
		assert.Contains(t, declared.Attributes, KeyEventName, event)
	}
	assert.Subset(t, receiver.Events[eventPacketLoss].Attributes, []string{keyReason, keyLocation, keyStacktrace})
	assert.Contains(t, receiver.Events[eventTCPResetProcess].Attributes, keyTCPState)
}

// constants returns the values of the package-level string constants of a Go file by their names.
func constants(t *testing.T, path string) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	values := map[string]string{}
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.CONST {
			continue
		}
		for _, spec := range gen.Specs {
			value := spec.(*ast.ValueSpec)
			for i, name := range value.Names {
				text, err := strconv.Unquote(value.Values[i].(*ast.BasicLit).Value)
				require.NoError(t, err)
				values[name.Name] = text
			}
		}
	}
	return values
}
