package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hutchvm/hutch/internal/cachedir"
	"github.com/therootcompany/xz"
)

// unpackedKernel returns the path of the kernel that the bzImage at path holds, unpacked once into the cache: the emulated machine would
// take longer to unpack it than all the rest of its boot takes. The lab does not use package boot for this, which it exists to test.
func unpackedKernel(ctx context.Context, path string) (string, error) {
	dir, err := cachedir.Dir("lab")
	if err != nil {
		return "", err
	}
	unlock, err := cachedir.Lock(ctx, filepath.Join(dir, "image.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	// The folder of the unpacked package names its version.
	version := filepath.Base(filepath.Dir(filepath.Dir(path)))
	out := filepath.Join(dir, "vmlinux-"+strings.TrimPrefix(version, "linux-image-"))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	kernel, err := unpackKernel(image)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	tmp := out + ".tmp"
	if err := os.WriteFile(tmp, kernel, 0o644); err != nil {
		return "", err
	}
	return out, os.Rename(tmp, out)
}

// errNotXZ: the kernel is packed in another way than Debian's; the emulator boots it as it is.
var errNotXZ = errors.New("the kernel is not packed with xz")

// maxKernel bounds the unpacked kernel.
const maxKernel = 1 << 30

// unpackKernel unpacks the payload of a bzImage. Documentation/arch/x86/boot.rst: setup_sects at 0x1f1, the header's magic at 0x202,
// payload_offset and payload_length at 0x248; the last four bytes of the payload are the unpacked size.
func unpackKernel(image []byte) ([]byte, error) {
	if len(image) < 0x260 || string(image[0x202:0x206]) != "HdrS" {
		return nil, errors.New("no bzImage")
	}
	sectors := uint64(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[0x248:]))
	size := uint64(binary.LittleEndian.Uint32(image[0x24c:]))
	if size < 10 || start+size > uint64(len(image)) {
		return nil, fmt.Errorf("payload of %d bytes at %d is not within the file's %d bytes", size, start, len(image))
	}
	payload := image[start : start+size]
	if !bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")) {
		return nil, errNotXZ
	}
	unpacked := binary.LittleEndian.Uint32(payload[size-4:])
	if unpacked > maxKernel {
		return nil, fmt.Errorf("unpacked size %d is more than a kernel's", unpacked)
	}
	r, err := xz.NewReader(bytes.NewReader(payload[:size-4]), 0)
	if err != nil {
		return nil, err
	}
	kernel := make([]byte, unpacked)
	if _, err := io.ReadFull(r, kernel); err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, errors.New("the payload is no ELF file")
	}
	return kernel, nil
}
