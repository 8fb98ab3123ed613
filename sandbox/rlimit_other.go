//go:build !linux

package sandbox

func addressSpace() (limit uint64, limited bool) { return 0, false }
