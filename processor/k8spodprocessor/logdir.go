// Copyright The netexporter Authors
// SPDX-License-Identifier: Apache-2.0

package k8spodprocessor

import (
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/netexporter/netexporter/processor/k8spodprocessor/internal/metadata"
)

// settled is how long after its modification a directory is listed again all the same: two changes within a tick of the
// file system's clock look like one.
const settled = time.Second

// logDir knows pods by the directory in which the kubelet has their logs, which it makes before it starts their first
// container: <namespace>_<name>_<uid>, where the UID is that of the cgroup path. It needs neither the API server nor the
// kubelet to answer, but it knows no more than the name.
type logDir struct {
	path string
	node string // name of the node, for the attributes
	now  func() time.Time

	mu       sync.Mutex
	modified time.Time
	pods     map[string]*logPod // by UID
	err      error
}

type logPod struct {
	*pod
	gone time.Time // when its directory was found missing, or zero
}

func newLogDir(path, node string) *logDir {
	return &logDir{path: path, node: node, now: time.Now, pods: map[string]*logPod{}}
}

// lookup returns the pod of a UID, nil if there is none. It lists the directory only if that has changed.
func (d *logDir) lookup(uid string) *pod {
	if uid == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pods[uid]; p != nil {
		return p.pod
	}
	d.err = d.list()
	if p := d.pods[uid]; p != nil {
		return p.pod
	}
	return nil
}

// problem returns why the directory could not be read at the last look, nil if it could.
func (d *logDir) problem() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *logDir) list() error {
	info, err := os.Stat(d.path)
	if err != nil {
		return err
	}
	now := d.now()
	if info.ModTime().Equal(d.modified) && now.Sub(d.modified) > settled {
		return nil
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	d.modified = info.ModTime()
	there := make(map[string]bool, len(entries))
	for _, e := range entries {
		parts := strings.Split(e.Name(), "_") // in none of which there may be one
		if len(parts) != 3 {
			continue
		}
		namespace, name, uid := parts[0], parts[1], parts[2]
		there[uid] = true
		if d.pods[uid] == nil {
			rb := metadata.NewResourceBuilder(metadata.DefaultResourceAttributesConfig())
			rb.SetK8sPodName(name)
			rb.SetK8sPodUID(uid)
			rb.SetK8sNamespaceName(namespace)
			rb.SetK8sNodeName(d.node)
			d.pods[uid] = &logPod{pod: &pod{name: name, namespace: namespace, attrs: rb.Emit().Attributes(), more: pcommon.NewMap()}}
		}
	}
	for uid, p := range d.pods {
		switch {
		case there[uid]:
			p.gone = time.Time{}
		case p.gone.IsZero():
			p.gone = now
		case now.Sub(p.gone) > tombstone:
			delete(d.pods, uid)
		}
	}
	return nil
}
