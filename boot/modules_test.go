package boot

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/fstest"
)

// moduleKernel is a kernel with this modules tree and, if not empty, this configuration.
func moduleKernel(tree fstest.MapFS, config string) *Kernel {
	k := &Kernel{Path: "test", Release: testRelease}
	if tree != nil {
		k.ModuleTree = tree
	}
	k.scan.Do(func() {
		if config != "" {
			k.config, _ = ParseConfig(strings.NewReader(config))
		}
	})
	return k
}

func TestModulesComeInLoadingOrder(t *testing.T) {
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	mod := func(depends, soft string) []byte {
		s := "license=GPL\x00depends=" + depends + "\x00"
		if soft != "" {
			s += "softdep=" + soft + "\x00"
		}
		return append(testModule(s), "~Module signature appended~\n"...)
	}
	top := mod("mid-a,mid_b", "")
	tree := fstest.MapFS{
		"modules.builtin":       file([]byte("kernel/lib/core.ko\nkernel/lib/with-dash.ko.xz\n")),
		"kernel/a/top.ko":       file(top),
		"kernel/a/mid-a.ko.gz":  file(packed(t, "gzip", mod("low,core", ""))),
		"kernel/b/mid_b.ko.zst": file(packed(t, "zstd", mod("low,with_dash", "pre: soft absent post: later"))),
		"kernel/low.ko":         file(mod("", "")),
		"kernel/soft.ko":        file(mod("", "pre: mid_b")), // back to the one that wants it
		"kernel/later.ko":       file(mod("", "")),
		"build/scripts/top.ko":  file([]byte("not this one")),
		"updates/low.ko":        file(mod("core", "")),
	}
	k := moduleKernel(tree, "")
	mods, err := k.Modules("top", "core", "low")
	if err != nil {
		t.Fatal(err)
	}
	if got := names(mods); got != "low mid_a soft mid_b top" {
		t.Fatalf("order %q", got)
	}
	if !bytes.Equal(mods[4].Data, top) {
		t.Error("the bytes of a module, signature included, changed")
	}
	if k.index.files["low"] != "updates/low.ko" {
		t.Errorf("low is %s; updates/ comes first", k.index.files["low"])
	}
	if mods, err := k.Modules("core", "with-dash"); err != nil || len(mods) != 0 {
		t.Errorf("built-in modules gave %q, %v", names(mods), err)
	}
}

func TestMissingModulesNameTheOption(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	tree := fstest.MapFS{
		"kernel/vmw_vsock_virtio_transport.ko": file(string(testModule("depends=vsock\x00"))),
		"kernel/loop_a.ko":                     file(string(testModule("depends=loop_b\x00"))),
		"kernel/loop_b.ko":                     file(string(testModule("depends=loop_a\x00"))),
		"kernel/garbage.ko":                    file("garbage"),
		"kernel/bad.ko.gz":                     file("\x1f\x8bgarbage"),
		"kernel/odd.ko.xz":                     file("no xz"),
		"kernel/noinfo.ko":                     file(string(smallELF())),
	}
	const config = "CONFIG_VIRTIO_MMIO=m\nCONFIG_VSOCKETS=m\nCONFIG_OVERLAY_FS=y\n"
	for _, tt := range []struct{ name, text string }{
		{"virtio_mmio", "CONFIG_VIRTIO_MMIO=y"},
		{"vmw_vsock_virtio_transport", "module vsock (needed by vmw_vsock_virtio_transport) is neither built in nor shipped with it (use a kernel with CONFIG_VSOCKETS=y"},
		{"erofs", "CONFIG_EROFS_FS=y"},
		{"loop_a", "circle"},
		{"garbage", "no ELF object"},
		{"bad", "gzip data"},
		{"odd", "compression"},
		{"noinfo", "relocatable"},
		{"made_up", "module made_up is neither built in"},
	} {
		mods, err := moduleKernel(tree, config).Modules(tt.name)
		var e *ModuleError
		if mods != nil || !errors.As(err, &e) || !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v, %v; want %q", tt.name, mods, err, tt.text)
		}
	}
	if mods, err := moduleKernel(tree, config).Modules("overlay"); err != nil || len(mods) != 0 {
		t.Errorf("overlay=y: %v, %v", mods, err)
	}
}

func TestModulesOfAKernelWithoutATree(t *testing.T) {
	if mods, err := moduleKernel(nil, "CONFIG_VIRTIO_MMIO=y\nCONFIG_VIRTIO_VSOCKETS=y\n").Modules(DefaultModules...); err != nil || len(mods) != 0 {
		t.Errorf("all built in: %v, %v", mods, err)
	}
	if _, err := moduleKernel(nil, "CONFIG_VIRTIO_MMIO=y\n").Modules(DefaultModules...); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "CONFIG_VIRTIO_VSOCKETS=y") {
		t.Errorf("no vsock: %v", err)
	}
	if mods, err := moduleKernel(nil, "").Modules(DefaultModules...); err != nil || len(mods) != 0 {
		t.Errorf("nothing known: %v, %v", mods, err)
	}
}

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig(strings.NewReader("# comment\nCONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\nCONFIG_S=\"text\"\nCONFIG_N=64\nrubbish\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{"A": "y", "B": "m", "C": "n", "S": "text", "N": "64"}
	if len(c) != len(want) {
		t.Errorf("%v", c)
	}
	for k, v := range want {
		if c[k] != v {
			t.Errorf("CONFIG_%s = %q, want %q", k, c[k], v)
		}
	}
}

// FuzzModinfo: no input panics or makes us allocate more than it has.
func FuzzModinfo(f *testing.F) {
	f.Add(testModule("name=a\x00depends=b,c\x00softdep=pre: d\x00"))
	f.Add(smallELF())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseModinfo(b)
		if err != nil {
			return
		}
		n := len(m.name)
		for _, d := range append(m.depends, m.softPre...) {
			n += len(d)
			if strings.ContainsAny(d, "-\x00") {
				t.Fatalf("name %q", d)
			}
		}
		if n > len(b) {
			t.Fatalf("%d bytes of names from %d bytes", n, len(b))
		}
	})
}
