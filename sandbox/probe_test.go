//go:build linux && amd64

package sandbox

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
)

// Tests need programs that do one thing exactly, start in no time and take no memory, in any userland. They are static x86-64 programs of a
// few instructions, assembled here.

// elf makes a program of code, mapped with its file at 0x400000, readable, writable and executable.
func elf(code []byte) []byte {
	const header = 0x78
	b := make([]byte, header, header+len(code))
	copy(b, "\x7fELF\x02\x01\x01")
	size := uint64(header + len(code))
	for _, f := range []struct {
		off  int
		size int
		v    uint64
	}{
		{16, 2, 2}, {18, 2, 62}, {20, 4, 1}, {24, 8, 0x400000 + header}, {32, 8, 64}, {52, 2, 64}, {54, 2, 56}, {56, 2, 1}, // ET_EXEC, EM_X86_64, entry
		{64, 4, 1}, {68, 4, 7}, {80, 8, 0x400000}, {88, 8, 0x400000}, {96, 8, size}, {104, 8, size}, {112, 8, 0x1000}, // one PT_LOAD
	} {
		for i := range f.size {
			b[f.off+i] = byte(f.v >> (8 * i))
		}
	}
	return append(b, code...)
}

func imm(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(int32(v))) }

func code(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// sys is a system call whose first arguments are numbers.
func sys(n int, args ...int) []byte {
	b := code([]byte{0xb8}, imm(n))                                     // mov eax, n
	for i, op := range [][]byte{{0xbf}, {0xbe}, {0xba}, {0x41, 0xba}} { // mov edi, esi, edx, r10d
		if i < len(args) {
			b = code(b, op, imm(args[i]))
		}
	}
	return append(b, 0x0f, 0x05)
}

// onStack is a system call with the stack's top as the argument at, 0 to 3, and numbers for the others.
func onStack(at, n int, args ...int) []byte {
	call := sys(n, args...)
	load := [][]byte{{0x48, 0x89, 0xe7}, {0x48, 0x89, 0xe6}, {0x48, 0x89, 0xe2}, {0x49, 0x89, 0xe2}}[at] // mov rdi, rsi, rdx, r10 from rsp
	return code(call[:len(call)-2], load, call[len(call)-2:])
}

// push puts a number on the stack.
func push(v int) []byte { return code([]byte{0x68}, imm(v)) }

// say writes text of at most 8 bytes to a descriptor.
func say(fd int, text string) []byte {
	var v [8]byte
	copy(v[:], text)
	return code([]byte{0x48, 0xb8}, v[:], []byte{0x50}, // mov rax, text; push rax
		onStack(1, 1, fd, 0, len(text)), []byte{0x58}) // write; pop rax
}

func jump(n int) []byte { return code([]byte{0xe9}, imm(n)) }

// forever repeats body.
func forever(body []byte) []byte { return code(body, jump(-len(body)-5)) }

// ifZero runs body when eax is 0, ifNegative when it is below; body must not come back.
func ifZero(body []byte) []byte { return code([]byte{0x85, 0xc0, 0x0f, 0x85}, imm(len(body)), body) } // test eax, eax; jnz
func ifNegative(body []byte) []byte {
	return code([]byte{0x85, 0xc0, 0x0f, 0x89}, imm(len(body)), body)
} // jns

// times repeats body n times, with the counter in ebx.
func times(n int, body []byte) []byte {
	return code([]byte{0xbb}, imm(n), body, []byte{0xff, 0xcb, 0x0f, 0x85}, imm(-len(body)-8)) // dec ebx; jnz
}

// milliseconds sleeps; below a second.
func milliseconds(n int) []byte {
	return code(push(n*1_000_000), push(0), onStack(0, 35, 0, 0), []byte{0x48, 0x83, 0xc4, 0x10}) // nanosleep; add rsp, 16
}

func exitWith(n int) []byte { return sys(60, n) }

var (
	fork   = sys(57)
	setsid = sys(112)
	wait   = forever(sys(34)) // pause
)

// The programs, by name.
var probes = map[string][]byte{
	// hi: a line and an exit code.
	"hi": code(say(1, "hi\n"), exitWith(5)),
	// wait: nothing, for ever.
	"wait": wait,
	// deaf: blocks SIGTERM, says so and waits; its child does too, in a session of its own, a minute at most.
	"deaf": code(push(1<<(15-1)), onStack(1, 14, 0, 0, 0, 8), // rt_sigprocmask(SIG_BLOCK)
		fork, ifZero(code(setsid, say(1, "child\n"), times(60, milliseconds(999)), exitWith(0))), milliseconds(100), say(1, "deaf\n"), wait),
	// orphan: says hi and leaves a child that lives on for a moment, in a session of its own, and holds the output.
	"orphan": code(fork, ifZero(code(setsid, milliseconds(50), exitWith(0))), say(1, "hi\n"), exitWith(0)),
	// holder: the same with a child that stays, but a minute at most, so that none is left where no machine ends it.
	"holder": code(fork, ifZero(code(setsid, times(60, milliseconds(999)), exitWith(0))), say(1, "hi\n"), exitWith(0)),
	// hog: touches 64 MiB.
	"hog": code(sys(9, 0, 64<<20, 3, 0x22)[:20], []byte{0x41, 0xba}, imm(0x22), []byte{0x49, 0xc7, 0xc0}, imm(-1), []byte{0x45, 0x31, 0xc9, 0x0f, 0x05}, // mmap
		times(64<<20>>12, []byte{0xc6, 0x00, 0x01, 0x48, 0x05, 0x00, 0x10, 0x00, 0x00}), // mov byte [rax], 1; add rax, 4096
		exitWith(0)),
	// many: starts 40 children that wait, and exits with 7 when the kernel refuses.
	"many": code(times(40, code(fork, ifZero(wait), ifNegative(exitWith(7)))), exitWith(0)),
	// spin: uses all the processor it gets.
	"spin": forever(nil),
	// size: writes rows and columns of its terminal, 2 bytes each, now and after each byte that it reads.
	"size": code([]byte{0x48, 0x83, 0xec, 0x10}, // sub rsp, 16
		forever(code(onStack(2, 16, 0, 0x5413), onStack(1, 1, 1, 0, 4), onStack(1, 0, 0, 0, 1), ifZero(exitWith(0))))),
	// job: runs a child in the terminal's foreground as a shell does, and says so when it was stopped.
	"job": code(fork, ifZero(code(sys(109, 0, 0), milliseconds(100), wait)), // setpgid(0, 0)
		[]byte{0x50, 0x89, 0xc7, 0x89, 0xc6}, []byte{0xb8}, imm(109), []byte{0x0f, 0x05}, // push rax; setpgid(child, child)
		onStack(2, 16, 0, 0x5410), say(1, "ready\n"), // TIOCSPGRP
		[]byte{0x48, 0x8b, 0x3c, 0x24}, []byte{0xb8}, imm(61), []byte{0x31, 0xf6, 0xba}, imm(2), []byte{0x45, 0x31, 0xd2, 0x0f, 0x05}, // wait4(child, 0, WUNTRACED, 0)
		say(1, "stopped\n"), exitWith(3)),
	// jobs: runs a child in the terminal's foreground; when it was stopped, says so, takes the terminal, continues it after a line of input and waits
	// for its end.
	"jobs": code(push(1<<(22-1)), onStack(1, 14, 0, 0, 0, 8), // rt_sigprocmask(SIG_BLOCK, SIGTTOU)
		fork, ifZero(code(sys(109, 0, 0), milliseconds(100), wait)), // setpgid(0, 0)
		[]byte{0x50, 0x89, 0xc7, 0x89, 0xc6}, []byte{0xb8}, imm(109), []byte{0x0f, 0x05}, // push rax; setpgid(child, child)
		onStack(2, 16, 0, 0x5410), say(1, "ready\n"), // TIOCSPGRP: child
		[]byte{0x48, 0x8b, 0x3c, 0x24}, []byte{0xb8}, imm(61), []byte{0x31, 0xf6, 0xba}, imm(2), []byte{0x45, 0x31, 0xd2, 0x0f, 0x05}, // wait4(child, 0, WUNTRACED, 0)
		sys(39), []byte{0x50}, onStack(2, 16, 0, 0x5410), say(1, "stopped\n"), // push getpid(); TIOCSPGRP: self
		[]byte{0x50}, onStack(1, 0, 0, 0, 8), []byte{0x58, 0x58}, // push rax; read; pop rax; pop rax
		onStack(2, 16, 0, 0x5410), []byte{0x48, 0x8b, 0x3c, 0x24, 0x48, 0xf7, 0xdf, 0xbe}, imm(18), []byte{0xb8}, imm(62), []byte{0x0f, 0x05}, // kill(-child, SIGCONT)
		say(1, "goes on\n"),
		[]byte{0x48, 0x8b, 0x3c, 0x24}, []byte{0xb8}, imm(61), []byte{0x31, 0xf6, 0x31, 0xd2, 0x45, 0x31, 0xd2, 0x0f, 0x05}, // wait4(child, 0, 0, 0)
		say(1, "over\n"), exitWith(3)),
	// doom: ends process 1, which no signal ends: it stops its first thread in a system call and makes that call exit_group(9).
	"doom": code([]byte{0x48, 0x81, 0xec}, imm(256), // sub rsp, 256
		sys(101, 0x4206, 1, 0, 0), sys(101, 0x4207, 1, 0, 0), sys(61, 1, 0, 1<<30, 0), // PTRACE_SEIZE, PTRACE_INTERRUPT; wait4(1, 0, __WALL, 0)
		onStack(3, 101, 12, 1, 0, 0),                                                                 // PTRACE_GETREGS
		[]byte{0x48, 0xc7, 0x44, 0x24, 0x50}, imm(231), []byte{0x48, 0xc7, 0x44, 0x24, 0x70}, imm(9), // rax, rdi
		[]byte{0x48, 0xc7, 0x44, 0x24, 0x78}, imm(-1), []byte{0x48, 0x83, 0xac, 0x24}, imm(128), []byte{2}, // orig_rax: no restart; rip -= 2: again
		onStack(3, 101, 13, 1, 0, 0), sys(101, 17, 1, 0, 0), exitWith(0)), // PTRACE_SETREGS, PTRACE_DETACH
	// steal: takes the descriptors of process 1 and shuts every socket among them down, as a hostile guest can.
	"steal": code(sys(434, 1, 0), []byte{0x41, 0x89, 0xc4}, // pidfd_open(1); mov r12d, eax
		times(64, code([]byte{0x44, 0x89, 0xe7, 0x89, 0xde, 0x31, 0xd2, 0xb8}, imm(438), []byte{0x0f, 0x05}, // pidfd_getfd(r12, ebx, 0)
			[]byte{0x89, 0xc7, 0xbe}, imm(2), []byte{0xb8}, imm(48), []byte{0x0f, 0x05})), // shutdown(eax, SHUT_RDWR)
		exitWith(0)),
}

// install puts a probe into the sandbox and returns its path there.
func install(t testing.TB, sb *Sandbox, name string) string {
	t.Helper()
	path := fmt.Sprintf("/tmp/hutch-probe-%d-%s", os.Getpid(), name) // without a guest, other test processes have the same /tmp
	t.Cleanup(func() { os.Remove(path) })
	program, ok := probes[name]
	if !ok {
		t.Fatalf("no probe %q", name)
	}
	res, err := sb.Shell(testContext(t), "cat >"+path+".new && chmod 755 "+path+".new && mv "+path+".new "+path, WithExecStdin(bytes.NewReader(elf(program))))
	if err != nil {
		t.Fatalf("installing %s: %v", path, err)
	}
	if !res.Success() {
		t.Fatalf("installing %s: %v, %s", path, res.State(), res.Stderr())
	}
	return path
}
