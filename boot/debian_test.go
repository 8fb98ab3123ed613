package boot

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/virtio"
)

// TestDebianKernels opens every distribution kernel of the real cache and looks for what a guest needs.
func TestDebianKernels(t *testing.T) {
	list, err := Cached()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, c := range list {
		if !strings.HasPrefix(c.Name, "linux-image-") {
			continue
		}
		found = true
		t.Run(c.Name, func(t *testing.T) { checkDistributionKernel(t, c) })
	}
	if !found {
		t.Skip("no distribution kernel in the cache: hutch kernel fetch linux-image-cloud-amd64")
	}
}

func checkDistributionKernel(t *testing.T, c CachedKernel) {
	k, err := Resolve(context.Background(), ResolveOptions{Ref: c.Name})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if k.Release != c.Release || !strings.Contains(c.Name, k.Release) {
		t.Errorf("release %q of package %s", k.Release, c.Name)
	}
	mods, err := k.Modules(DefaultModules...)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range mods {
		info, err := parseModinfo(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range info.depends {
			if f, missing := k.locate(d); !seen[d] && (f != "" || missing) {
				t.Errorf("%s comes before %s, which it depends on", m.Name, d)
			}
		}
		if !strings.HasSuffix(string(m.Data), "~Module signature appended~\n") {
			t.Errorf("%s lost its signature", m.Name)
		}
		seen[m.Name] = true
	}
	if v, known := k.Config("VIRTIO_VSOCKETS"); !known || v == "m" && !seen["vmw_vsock_virtio_transport"] || v == "n" {
		t.Errorf("VIRTIO_VSOCKETS=%s, modules %s", v, names(mods))
	}
	if _, err := k.Modules("virtiofs", "overlay", "erofs"); err != nil {
		t.Error(err)
	}
	ram := make([]byte, 256<<20)
	mem, err := virtio.NewMemory(virtio.Region{Bytes: ram})
	if err != nil {
		t.Fatal(err)
	}
	slot, _ := MMIODevice(0)
	e, err := Load(mem, k, Params{Cmdline: Cmdline(CmdlineOptions{}), CPUs: 4, Devices: []Device{slot}})
	if err != nil {
		t.Fatal(err)
	}
	if e.Tables != TablesACPI || e.Regs.RIP < 0x100_0000 || zero(ram[e.Regs.RIP:e.Regs.RIP+16]) {
		t.Errorf("entry %#x, tables %v", e.Regs.RIP, e.Tables)
	}
}

// TestDistributionPackageFromFile opens the package that HUTCH_TEST_DEB names, in a cache of its own.
func TestDistributionPackageFromFile(t *testing.T) {
	deb := os.Getenv("HUTCH_TEST_DEB")
	if deb == "" {
		t.Skip("set HUTCH_TEST_DEB to a linux-image package (apt-get download linux-image-cloud-amd64 gives its name)")
	}
	testCache(t)
	k, err := Import(context.Background(), deb)
	if err != nil {
		t.Fatal(err)
	}
	k.Close()
	TestDebianKernels(t)
}
