package execlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// repair makes file end with a whole line. It returns the file's size, and how many bytes of a torn line were cut off.
func repair(file *os.File) (size, torn int64, err error) {
	st, err := file.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = st.Size()
	end, err := lastNewline(file, size)
	if err != nil || end == size {
		return size, 0, err
	}
	if torn = size - end; torn <= maxLine {
		b := make([]byte, torn)
		if _, err := file.ReadAt(b, end); err != nil {
			return 0, 0, err
		}
		if _, err := decodeLine(b); err == nil { // only the newline is missing
			n, err := file.Write([]byte("\n"))
			return size + int64(n), 0, err
		}
	}
	return end, torn, file.Truncate(end)
}

// lastNewline returns the offset behind the last newline in the first size bytes of f, 0 if there is none.
func lastNewline(f io.ReaderAt, size int64) (int64, error) {
	var block [16 << 10]byte
	for end := size; end > 0; {
		start := max(0, end-int64(len(block)))
		b := block[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if i := bytes.LastIndexByte(b, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// lastSeq returns the number of the last entry in the log at path, 0 if it has none. It reads ends of files, not files.
func lastSeq(path string) (uint64, error) {
	for _, i := range append([]int{0}, rotations(path)...) {
		seq, err := lastSeqOf(rotated(path, i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, fmt.Errorf("execlog: looking for the last entry: %w", err)
		}
		if seq > 0 {
			return seq, nil
		}
	}
	return 0, nil
}

func lastSeqOf(name string) (uint64, error) {
	f, err := openRegular(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	for end := st.Size(); end > 0; {
		start, err := lastNewline(f, end-1)
		if err != nil {
			return 0, err
		}
		if end-start <= maxLine {
			b := make([]byte, end-start)
			if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
				return 0, err
			}
			if e, err := decodeLine(bytes.TrimSuffix(b, []byte("\n"))); err == nil {
				return e.Seq, nil
			}
		}
		end = start
	}
	return 0, nil
}
