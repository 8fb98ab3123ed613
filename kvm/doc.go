// Package kvm is the kernel's hypervisor interface, /dev/kvm, in Go without cgo.
package kvm
