package boot

import (
	"errors"
	"strings"
)

// required are the options without which a guest never reaches its agent: the boot would only time out. Any one of a line's options will do; "m"
// counts, because Modules finds out whether the module is there.
var required = []struct {
	options []string
	use     string
}{
	{[]string{"BLK_DEV_INITRD"}, "its initial file system"},
	{[]string{"BINFMT_ELF"}, "starting programs"},
	{[]string{"FUTEX"}, "its agent"},
	{[]string{"EPOLL"}, "its agent"},
	{[]string{"VIRTIO_MMIO"}, "its devices"},
	{[]string{"VIRTIO_VSOCKETS"}, "the agent's connection"},
	{[]string{"ACPI", "VIRTIO_MMIO_CMDLINE_DEVICES"}, "finding its devices"},
}

// CheckFeatures looks in the kernel's configuration for what every guest needs. Nothing is wrong with a kernel whose configuration is not known:
// the boot will tell. Errors: *FeatureError, joined when there are several.
func (k *Kernel) CheckFeatures() error {
	var errs []error
	for _, r := range required {
		missing := true
		for _, option := range r.options {
			if v, known := k.Config(option); !known || v == "y" || v == "m" {
				missing = false
			}
		}
		if missing {
			errs = append(errs, &FeatureError{Kernel: k.String(), Option: "CONFIG_" + strings.Join(r.options, " and CONFIG_"), Source: k.configFrom, Use: r.use})
		}
	}
	return errors.Join(errs...)
}
