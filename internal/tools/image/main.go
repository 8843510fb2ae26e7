// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

// Image writes the container image of netexporter, for all architectures, as an OCI archive: what podman, skopeo, crane,
// nerdctl and ctr read. It needs neither a container engine nor a base image, and the same programs make the same bytes.
//
//	image -tag REPOSITORY:TAG -run COMMAND -o FILE [-config FILE] ARCHITECTURE=DIRECTORY...
//
// A directory has the programs of an architecture, which must be static. They get into /bin.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	configPath = "etc/netexporter/config.yaml"

	passwd = "root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"
	group  = "root:x:0:\nnobody:x:65534:\n"
)

func main() {
	tag := flag.String("tag", "", "name of the image, `REPOSITORY:TAG`")
	out := flag.String("o", "", "`FILE` to write")
	command := flag.String("run", "", "`COMMAND` that the image runs: a program, and arguments that the user may replace")
	config := flag.String("config", "", "`FILE` to have as /"+configPath)
	flag.Parse()
	if err := run(*tag, *out, *config, strings.Fields(*command), flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(tag, out, config string, command, platforms []string) error {
	if len(command) == 0 {
		return errors.New("-run: what shall it run?")
	}
	ref, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return err
	}
	base, err := baseLayer(config)
	if err != nil {
		return err
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		arch, dir, ok := strings.Cut(p, "=")
		if !ok {
			return fmt.Errorf("%q: must be ARCHITECTURE=DIRECTORY", p)
		}
		image, err := newImage(ref, arch, command, base, os.DirFS(dir))
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	return writeArchive(out, ref, index)
}

// newImage returns the image of an architecture: the base, and the programs in /bin.
func newImage(ref name.Tag, arch string, command []string, base v1.Layer, programs fs.FS) (v1.Image, error) {
	bin, err := programLayer(programs)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.AppendLayers(image, base, bin)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config = v1.Config{
		Entrypoint: command[:1],
		Cmd:        command[1:],
		Env:        []string{"PATH=/bin"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":       "netexporter",
			"org.opencontainers.image.description": "Network observability of a node, by network namespace and pod",
			"org.opencontainers.image.licenses":    "Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)",
			"org.opencontainers.image.source":      "https://github.com/netexporter/netexporter",
			"org.opencontainers.image.version":     ref.TagStr(),
		},
	}
	return mutate.ConfigFile(image, config)
}

// baseLayer has what a static program looks for in /etc, and the configuration, if there is one.
func baseLayer(config string) (v1.Layer, error) {
	var l layerWriter
	l.file("etc/group", 0o644, []byte(group))
	if config != "" {
		data, err := os.ReadFile(config)
		if err != nil {
			return nil, err
		}
		l.file(configPath, 0o644, data)
	}
	l.file("etc/passwd", 0o644, []byte(passwd))
	l.file("etc/ssl/certs/ca-certificates.crt", 0o644, certificates())
	return l.layer()
}

// certificates are Mozilla's, as the module of Go has them. A root that is trusted under conditions only is left out: a file
// of certificates has no place for conditions.
func certificates() []byte {
	var b bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes all
		}
	}
	return b.Bytes()
}

func programLayer(programs fs.FS) (v1.Layer, error) {
	var l layerWriter
	entries, err := fs.ReadDir(programs, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		data, err := fs.ReadFile(programs, e.Name())
		if err != nil {
			return nil, err
		}
		l.file(path.Join("bin", e.Name()), 0o755, data)
	}
	return l.layer()
}

// layerWriter collects files into a layer. They are root's and of the epoch, so that the same files make the same layer.
type layerWriter struct {
	buf  bytes.Buffer
	tar  *tar.Writer
	dirs map[string]bool
	err  error
}

func (l *layerWriter) file(name string, mode int64, data []byte) {
	if l.tar == nil {
		l.tar, l.dirs = tar.NewWriter(&l.buf), map[string]bool{".": true}
	}
	l.mkdir(path.Dir(name))
	l.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))})
	_, err := l.tar.Write(data)
	l.err = errors.Join(l.err, err)
}

func (l *layerWriter) mkdir(dir string) {
	if l.dirs[dir] {
		return
	}
	l.mkdir(path.Dir(dir))
	l.dirs[dir] = true
	l.header(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func (l *layerWriter) header(h *tar.Header) {
	h.ModTime, h.Format = time.Unix(0, 0), tar.FormatPAX
	l.err = errors.Join(l.err, l.tar.WriteHeader(h))
}

func (l *layerWriter) layer() (v1.Layer, error) {
	if l.tar == nil {
		return nil, errors.New("a layer without files")
	}
	if err := errors.Join(l.err, l.tar.Close()); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(l.buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
}

// writeArchive writes an OCI layout as a tar. Its index has one entry, which carries the name, for the index of the image.
func writeArchive(out string, ref name.Tag, image v1.ImageIndex) error {
	dir, err := os.MkdirTemp("", "netexporter-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	// The first is the specification's, which podman and skopeo read; containerd takes the second, being the full name.
	names := map[string]string{"org.opencontainers.image.ref.name": ref.TagStr(), "io.containerd.image.name": ref.Name()}
	if err := l.AppendIndex(image, layout.WithAnnotations(names)); err != nil {
		return err
	}
	var archive layerWriter
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		if err == nil {
			archive.file(filepath.ToSlash(strings.TrimPrefix(file, dir+string(filepath.Separator))), 0o644, data)
		}
		return err
	})
	if err := errors.Join(err, archive.err); err != nil {
		return err
	}
	if err := archive.tar.Close(); err != nil {
		return err
	}
	return os.WriteFile(out, archive.buf.Bytes(), 0o644)
}
