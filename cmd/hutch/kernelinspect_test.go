package main

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hutchvm/hutch/boot"
)

// kernelFolder makes a folder with a vmlinux of a few bytes and this configuration; "" for none.
func kernelFolder(t *testing.T, config string) string {
	t.Helper()
	le := binary.LittleEndian
	elf := make([]byte, 64+56, 64+56+16)
	copy(elf, "\x7fELF\x02\x01\x01")
	le.PutUint16(elf[16:], 2)  // ET_EXEC
	le.PutUint16(elf[18:], 62) // x86-64
	le.PutUint32(elf[20:], 1)
	le.PutUint64(elf[24:], 0x100_0000)
	le.PutUint64(elf[32:], 64)
	le.PutUint16(elf[52:], 64)
	le.PutUint16(elf[54:], 56)
	le.PutUint16(elf[56:], 1)
	p := elf[64:]
	le.PutUint32(p[0:], 1) // PT_LOAD
	le.PutUint32(p[4:], 5)
	le.PutUint64(p[8:], 120)
	le.PutUint64(p[16:], 0xffffffff_81000000)
	le.PutUint64(p[24:], 0x100_0000)
	le.PutUint64(p[32:], 16)
	le.PutUint64(p[40:], 16)
	dir := t.TempDir()
	files := map[string]string{"vmlinux": string(append(elf, "the kernel's text"[:16]...)), "release": "6.99-test\n"}
	if config != "" {
		files["config"] = config
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestKernelInspectSaysWhatIsMissingAndWhetherItBoots(t *testing.T) {
	t.Setenv("HUTCH_CACHE", t.TempDir())
	var all strings.Builder
	for _, f := range features {
		all.WriteString("CONFIG_" + f.option + "=y\n")
	}
	complete := all.String() + "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n"
	without := func(option string) string { return strings.Replace(complete, "CONFIG_"+option+"=y\n", "", 1) }
	for _, tc := range []struct {
		name, config string
		boots        bool
		problem      string // part of it
		devices      string
		option       string
		want         feature
	}{
		{"complete", complete, true, "", "command line", "ACPI", feature{Need: either, State: "missing", Handling: "not needed: the kernel takes devices from its command line"}},
		{"ACPI", all.String() + "CONFIG_ACPI=y\n", true, "", "ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES", feature{Need: either, State: "missing", Handling: "not needed: there is ACPI"}},
		{"neither way to tell of devices", all.String(), false, "CONFIG_ACPI and CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES not set", "command line", "ACPI", feature{Need: either, State: "missing", Handling: "the guest finds no device"}},
		{"no transport", without("VIRTIO_MMIO"), false, "CONFIG_VIRTIO_MMIO not set", "command line", "VIRTIO_MMIO",
			feature{Need: required, State: "missing", Handling: "the guest finds no device"}},
		{"a module that is not there", without("VIRTIO_VSOCKETS") + "CONFIG_VIRTIO_VSOCKETS=m\n", false, "module vmw_vsock_virtio_transport is neither", "command line", "VIRTIO_VSOCKETS",
			feature{Need: required, State: "module", Handling: "the module is not there: the agent cannot be reached"}},
		{"a module where none helps", without("TMPFS") + "CONFIG_TMPFS=m\n", true, "", "command line", "TMPFS",
			feature{Need: useful, State: "module", Handling: "counts as missing: /tmp and /run are part of the initial file system"}},
		{"no event poll", without("EPOLL"), false, "CONFIG_EPOLL not set", "command line", "EPOLL", feature{Need: required, State: "missing", Handling: "the agent cannot start"}},
		{"no clock", without("KVM_GUEST"), true, "", "command line", "KVM_GUEST",
			feature{Need: useful, State: "missing", Handling: "the guest may hang: it has no timer to calibrate its clock by"}},
		{"no limits", without("MEMCG"), true, "", "command line", "MEMCG", feature{Need: useful, State: "missing", Handling: "a command with this limit is refused"}},
		{"a disk driver as a module", without("VIRTIO_BLK") + "CONFIG_VIRTIO_BLK=m\n", true, "", "command line", "VIRTIO_BLK", feature{Need: unused, State: "module", Handling: notLoaded}},
		{"nobody knows", "", true, "", "unknown", "MEMCG", feature{Need: useful, State: "unknown", Handling: unknownConfig}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := kernelFolder(t, tc.config)
			code := map[bool]int{true: 0, false: 1}[tc.boots]
			o := hutch(t, "", "kernel", "inspect", "--json", dir)
			var in inspection
			if err := json.Unmarshal([]byte(o.stdout), &in); err != nil || o.code != code || o.stderr != "" {
				t.Fatalf("%v, %+v", err, o)
			}
			if in.Release != "6.99-test" || in.Path != dir || in.Boots != tc.boots || in.Devices != tc.devices ||
				(in.Problem == "") != tc.boots || !strings.Contains(in.Problem, tc.problem) || len(in.Features) != len(features)+2 {
				t.Errorf("%+v", in)
			}
			for _, f := range in.Features {
				if f.Handling == "" || f.Use == "" {
					t.Errorf("%+v says nothing", f)
				}
				if f.Option == "CONFIG_"+tc.option && (f.Need != tc.want.Need || f.State != tc.want.State || f.Handling != tc.want.Handling) {
					t.Errorf("%+v, want %+v", f, tc.want)
				}
			}
			o = hutch(t, "", "kernel", "inspect", dir)
			if boots := "boots     " + map[bool]string{true: "yes\n", false: "no: "}[tc.boots]; o.code != code || !strings.Contains(o.stdout, boots) || !strings.Contains(o.stdout, tc.problem) {
				t.Errorf("%+v", o)
			}
		})
	}
}

// What inspect calls required is what New refuses to boot without, and nothing else.
func TestKernelInspectRequiresWhatNewDoes(t *testing.T) {
	t.Setenv("HUTCH_CACHE", t.TempDir())
	config := func(without string) string {
		text := "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES=y\n"
		for _, f := range features {
			if f.option != without {
				text += "CONFIG_" + f.option + "=y\n"
			}
		}
		return text
	}
	for _, f := range features {
		k, err := boot.Open(t.Context(), kernelFolder(t, config(f.option)))
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		in, refused := inspectKernel(k), k.CheckFeatures() != nil
		if in.Boots == refused || refused != (f.need == required) {
			t.Errorf("without CONFIG_%s, which is %s: boots %v, refused %v", f.option, f.need, in.Boots, refused)
		}
	}
	k, err := boot.Open(t.Context(), kernelFolder(t, "CONFIG_UNKNOWN=y\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	listed := map[string]bool{}
	for _, f := range inspectKernel(k).Features {
		listed[f.Option] = true
	}
	for _, option := range regexp.MustCompile(`CONFIG_\w+`).FindAllString(k.CheckFeatures().Error(), -1) {
		if !listed[option] && option != "CONFIG_IKCONFIG" {
			t.Errorf("inspect does not list %s, which New needs", option)
		}
	}
}

func TestKernelListAndPruneKnowOurOwn(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("HUTCH_CACHE", cache)
	want(t, hutch(t, "", "kernel", "list", "--json"), "[]\n", 0)
	want(t, hutch(t, "", "kernel", "ls"), "NAME  ALSO  RELEASE  SIZE  ADDED\n", 0)
	own := filepath.Join(cache, "kernels", "own")
	if err := os.MkdirAll(own, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kernelFolder(t, "CONFIG_SMP=y\n"), filepath.Join(own, "abc")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("abc", filepath.Join(own, "current")); err != nil {
		t.Fatal(err)
	}
	var list []kernelLine
	o := hutch(t, "", "kernel", "list", "--json")
	if err := json.Unmarshal([]byte(o.stdout), &list); err != nil || len(list) != 1 || list[0].Name != "own" || list[0].Release != "6.99-test" ||
		list[0].Path != filepath.Join(own, "current") || list[0].Size != 136+10+13 || list[0].Added.IsZero() {
		t.Fatalf("%v, %+v", err, o)
	}
	if o := hutch(t, "", "kernel", "list"); !strings.Contains(o.stdout, "\nown   -     6.99-test  0.0 MB") || o.code != 0 {
		t.Errorf("%+v", o)
	}
	want(t, hutch(t, "", "kernel", "prune", "own"), "own\n", 0)
	want(t, hutch(t, "", "kernel", "list", "--json"), "[]\n", 0)
	if o := hutch(t, "", "kernel", "prune", "own"); o.code != exitFailed || !strings.Contains(o.stderr, "hutch kernel build") {
		t.Errorf("%+v", o)
	}
}

func TestWrongSubcommandsSuggestTheRightOnes(t *testing.T) {
	for args, hint := range map[string]string{
		"kernel ftch": "did you mean fetch?", "kernel download": "did you mean fetch?", "kernel rm": "did you mean prune?", "kernel lst": "did you mean list?",
		"kernel bogus": "run: hutch kernel --help", "image bild": "did you mean build?", "image lst": "did you mean ls?",
	} {
		if o := hutch(t, "", strings.Fields(args)...); o.code != exitFailed || o.stdout != "" || !strings.Contains(o.stderr, hint) {
			t.Errorf("%s: %+v, want %q", args, o, hint)
		}
	}
}
