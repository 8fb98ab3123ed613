package boot

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Config is a kernel's build configuration: option without CONFIG_ → value: y, m, n (said to be not set), or the text of the value
// without quotes. A nil Config is one that nobody knows.
type Config map[string]string

// ParseConfig reads a .config file. Lines that are neither assignments nor "is not set" comments are skipped; at most 4 MiB are read.
func ParseConfig(r io.Reader) (Config, error) {
	c := Config{}
	s := bufio.NewScanner(io.LimitReader(r, maxConfigBytes))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := strings.TrimSpace(s.Text())
		if rest, ok := strings.CutPrefix(line, "# CONFIG_"); ok {
			if name, ok := strings.CutSuffix(rest, " is not set"); ok {
				c[name] = "n"
			}
			continue
		}
		if rest, ok := strings.CutPrefix(line, "CONFIG_"); ok {
			if name, value, ok := strings.Cut(rest, "="); ok {
				c[name] = strings.Trim(value, `"`)
			}
		}
	}
	return c, s.Err()
}

// Config returns the value of a build option, named without CONFIG_, and whether this kernel's configuration is known at all. An option that
// a known configuration does not mention is "n": its dependencies were not met.
//
// The configuration is that of the file beside the kernel (config-RELEASE, config), else the one inside the image (CONFIG_IKCONFIG).
// The first call may read the whole image.
func (k *Kernel) Config(option string) (value string, known bool) {
	k.scan.Do(k.loadConfig)
	if k.config == nil {
		return "", false
	}
	if v, ok := k.config[option]; ok {
		return v, true
	}
	return "n", true
}

func (k *Kernel) loadConfig() {
	if k.configFile != "" {
		if f, err := os.Open(k.configFile); err == nil {
			defer f.Close()
			if c, err := ParseConfig(f); err == nil && len(c) > 0 {
				k.config, k.configFrom = c, filepath.Clean(k.configFile)
				return
			}
		}
	}
	k.config, k.hasACPI = scanImage(k.image, k.size)
	k.configFrom = "the copy in the kernel (CONFIG_IKCONFIG)"
}

const (
	ikconfigStart = "IKCFG_ST" // kernel/configs.c: the gzipped .config follows, then IKCFG_ED
	acpiMarker    = "ACPI BIOS Error"
)

// scanImage looks for an embedded configuration and for a text that only a kernel with ACPI contains.
func scanImage(r io.ReaderAt, size int64) (c Config, hasACPI bool) {
	if r == nil {
		return nil, false
	}
	const chunk, overlap = 1 << 20, 64
	buf := make([]byte, chunk+overlap)
	for off := int64(0); off < size; off += chunk {
		n, err := r.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		if n == 0 && err != nil {
			break
		}
		if !hasACPI && bytes.Contains(buf[:n], []byte(acpiMarker)) {
			hasACPI = true
		}
		if c != nil {
			continue
		}
		if i := bytes.Index(buf[:n], []byte(ikconfigStart)); i >= 0 {
			start := off + int64(i) + int64(len(ikconfigStart))
			c = embeddedConfig(r, start, size)
		}
	}
	return c, hasACPI
}

// embeddedConfig unpacks the configuration at off, or returns nil: the marker may be there by chance.
func embeddedConfig(r io.ReaderAt, off, size int64) Config {
	z, err := openGzip(io.NewSectionReader(r, off, size-off))
	if err != nil {
		return nil
	}
	c, err := ParseConfig(z)
	if err != nil || len(c) == 0 {
		return nil
	}
	return c
}
