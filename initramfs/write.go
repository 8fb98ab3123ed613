package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// File types of the mode field, as in stat(2).
const (
	typeMask    = 0o170000
	typeDir     = 0o040000
	typeRegular = 0o100000
	typeSymlink = 0o120000
	typeChar    = 0o020000
	typeBlock   = 0o060000
	typeFIFO    = 0o010000
	typeSocket  = 0o140000
)

const (
	magic      = "070701"
	magicCRC   = "070702"
	trailer    = "TRAILER!!!"
	headerSize = 110
	// maxName is the kernel's limit, the NUL included: N_ALIGN(PATH_MAX) holds in init/initramfs.c, longer names are skipped silently.
	maxName = 4096
)

// record is one entry to be written. Content comes from data, or from r and size when r is not nil.
type record struct {
	name         string
	mode         uint32
	uid, gid     uint32
	major, minor uint32 // of a device node
	data         []byte
	r            io.Reader
	size         int64
}

// writer writes records in the order given, with inode numbers that count up.
type writer struct {
	w   io.Writer
	pos int64
	ino uint32
}

var zeros [4]byte

func (w *writer) write(p []byte) error {
	n, err := w.w.Write(p)
	w.pos += int64(n)
	return err
}

func (w *writer) pad() error { return w.write(zeros[:-w.pos&3]) }

func (w *writer) record(rec record) error {
	size := int64(len(rec.data))
	content := io.Reader(bytes.NewReader(rec.data))
	if rec.r != nil {
		size, content = rec.size, rec.r
	}
	if size < 0 || size > 0xffff_ffff {
		return fmt.Errorf("%w: %s: %d bytes, the format holds less than 4 GiB", ErrInvalidFile, rec.name, size)
	}
	links := 1
	if rec.mode&typeMask == typeDir {
		links = 2
	}
	w.ino++
	header := fmt.Sprintf("%s%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", magic, w.ino, rec.mode, rec.uid, rec.gid, links,
		0, size, 0, 0, rec.major, rec.minor, len(rec.name)+1, 0, rec.name)
	if err := w.write([]byte(header)); err != nil {
		return err
	}
	if err := w.pad(); err != nil {
		return err
	}
	n, err := io.Copy(w.w, io.LimitReader(content, size))
	w.pos += n
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s: %d bytes read, %d expected: %w", rec.name, n, size, io.ErrUnexpectedEOF)
	}
	return w.pad()
}

// close ends the archive. The kernel hashes inode numbers only for link counts above one, so that archives can be concatenated freely.
func (w *writer) close() error {
	w.ino = 0
	header := fmt.Sprintf("%s%s%08X%s%08X%08X%s\x00", magic, strings.Repeat("0", 32), 1, strings.Repeat("0", 48), len(trailer)+1, 0, trailer)
	if err := w.write([]byte(header)); err != nil {
		return err
	}
	return w.pad()
}
