package ownkernel

import (
	"embed"
	"fmt"
	"runtime"
	"strings"
)

//go:embed *.config
var configs embed.FS

// kernelArch is the name that the kernel's makefiles have for an architecture of Go.
var kernelArch = map[string]string{"amd64": "x86_64"}

// Fragment returns the options of our own kernel for the machine's architecture. Error: ErrUnsupported.
func Fragment() ([]byte, error) {
	data, err := configs.ReadFile("hutch-" + runtime.GOARCH + ".config")
	if err != nil || kernelArch[runtime.GOARCH] == "" {
		return nil, &Error{Op: "read the options", Err: fmt.Errorf("%w: %s", ErrUnsupported, runtime.GOARCH),
			Fix: "boot a distribution's kernel: hutch kernel fetch"}
	}
	return data, nil
}

// verify returns a *ConfigError when a line of the fragment does not hold in config, the kernel's finished .config.
func verify(fragment, config []byte) error {
	have := map[string]bool{}
	set := map[string]bool{}
	for line := range strings.Lines(string(config)) {
		line = strings.TrimSpace(line)
		have[line] = true
		if name, _, ok := strings.Cut(line, "="); ok {
			set[name] = true
		}
	}
	var missing []string
	for line := range strings.Lines(string(fragment)) {
		line = strings.TrimSpace(line)
		name, off := strings.CutSuffix(strings.TrimPrefix(line, "# "), " is not set")
		switch {
		case off && strings.HasPrefix(name, "CONFIG_"):
			// An option whose dependencies are off is not mentioned at all, which is as good.
			if set[name] {
				missing = append(missing, line)
			}
		case strings.HasPrefix(line, "CONFIG_") && !have[line]:
			missing = append(missing, line)
		}
	}
	if len(missing) > 0 {
		return &ConfigError{Missing: missing}
	}
	return nil
}
