package ownkernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hutchvm/hutch/boot/debpkg"
)

// buildPrograms are what the kernel's makefiles call besides the essential packages of every Debian system.
var buildPrograms = []string{"gcc", "ld", "strip", "make", "flex", "bison", "m4", "bc"}

// buildPackages bring them, and what host programs of the build are compiled with (objtool reads ELF through libelf).
var buildPackages = []string{"gcc", "binutils", "make", "flex", "bison", "m4", "bc", "libc6-dev", "libelf-dev", "xz-utils"}

// tools is a working set of build tools.
type tools struct {
	tree   *debpkg.Tree
	env    []string
	hostCC string // compiler for programs that run during the build
}

// findTools takes the system's tools when they are complete and else completes them from packages. work is a folder for wrappers.
func findTools(ctx context.Context, work string, progress func(string)) (*tools, error) {
	system := &tools{tree: &debpkg.Tree{}, env: cleanEnv(os.Environ()), hostCC: "gcc"}
	missing := system.check(ctx, work)
	if missing == nil {
		return system, nil
	}
	progress("build tools: " + firstLine(missing.Error()) + "; fetching packages into the cache (nothing is installed)")
	tree, err := debpkg.Closure(ctx, debpkg.Options{Packages: buildPackages, Progress: progress})
	if err != nil {
		return nil, &Error{Op: "fetch the build tools", Err: errors.Join(missing, err),
			Fix: "or install them: " + strings.Join(buildPackages, " ")}
	}
	t := &tools{tree: tree, env: tree.Env(cleanEnv(os.Environ()))}
	if t.hostCC, err = wrapCompiler(tree, work); err != nil {
		return nil, &Error{Op: "prepare the build tools", Err: err}
	}
	if err := t.check(ctx, work); err != nil {
		return nil, &Error{Op: "check the build tools", Err: fmt.Errorf("%w: %w", ErrToolchain, err),
			Fix: "install them: " + strings.Join(buildPackages, " ")}
	}
	return t, nil
}

// probe is a program that needs what the host programs of a kernel build need. It names a function that a static libelf has only with zlib,
// which those programs do not ask for.
const probe = "#include <stdio.h>\n#include <stdlib.h>\n#include <limits.h>\n#include <gelf.h>\n" +
	"void *volatile use = (void *)elf_compress;\n" +
	"int main(void) { return elf_version(EV_CURRENT) == EV_NONE || !use || printf(\"works\\n\") < 0; }\n"

// check reports what is missing: a program, or something that compiling, linking and running a program takes.
func (t *tools) check(ctx context.Context, work string) error {
	var missing []string
	for _, name := range buildPrograms {
		if _, err := t.tree.Lookup(name); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no %s", strings.Join(missing, ", "))
	}
	source, program := filepath.Join(work, "probe.c"), filepath.Join(work, "probe")
	if err := os.WriteFile(source, []byte(probe), 0o644); err != nil {
		return err
	}
	if out, err := t.command(ctx, t.hostCC, "-o", program, source, "-lelf").CombinedOutput(); err != nil {
		return fmt.Errorf("the compiler cannot build a program with libelf: %w: %s", err, tail(string(out)))
	}
	if out, err := t.command(ctx, program).Output(); err != nil || string(out) != "works\n" {
		return fmt.Errorf("a compiled program does not run: %w: %q", err, out)
	}
	return nil
}

// command is exec.CommandContext with the tools' PATH, also for finding name.
func (t *tools) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if p, err := t.tree.Lookup(name); err == nil && !strings.Contains(name, "/") {
		name = p
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = t.env
	return cmd
}

// wrapCompiler writes a compiler command that finds headers, start-up files and libraries in the tree after those of the system. gcc finds its
// own parts relative to itself wherever it lies.
func wrapCompiler(tree *debpkg.Tree, work string) (string, error) {
	gcc, err := tree.Lookup("gcc")
	if err != nil {
		return "", err
	}
	libs := filepath.Join(work, "lib")
	if err := os.MkdirAll(libs, 0o755); err != nil {
		return "", err
	}
	args := []string{quote(gcc), quote("-L" + libs)}
	for _, dir := range tree.IncludeDirs() {
		args = append(args, "-idirafter", quote(dir))
	}
	for _, dir := range tree.LibDirs() {
		args = append(args, quote("-B"+dir), quote("-L"+dir))
		if err := errors.Join(relocateLibc(tree, dir, libs), completeLinks(tree, dir, libs)); err != nil {
			return "", err
		}
	}
	script := "#!/bin/sh\nexec " + strings.Join(args, " ") + " \"$@\"\n"
	wrapper := filepath.Join(work, "hostcc")
	return wrapper, os.WriteFile(wrapper, []byte(script), 0o755)
}

// relocateLibc copies the linker script that stands for the C library, with the path of the static part changed to where it lies in the tree.
// The shared part is the system's.
func relocateLibc(tree *debpkg.Tree, dir, libs string) error {
	data, err := os.ReadFile(filepath.Join(dir, "libc.so"))
	if err != nil || !strings.Contains(string(data), "GROUP") {
		return nil // no libc6-dev in this folder
	}
	words := strings.Fields(string(data))
	for i, w := range words {
		if strings.HasPrefix(w, "/") && strings.HasSuffix(w, "libc_nonshared.a") {
			words[i] = tree.Path(w)
		}
	}
	return os.WriteFile(filepath.Join(libs, "libc.so"), []byte(strings.Join(words, " ")+"\n"), 0o644)
}

// completeLinks repairs the links by which the linker finds shared libraries (libelf.so to libelf.so.1): they come with the headers, and lead
// nowhere when the library itself is the system's and not in the tree.
func completeLinks(tree *debpkg.Tree, dir, libs string) error {
	links, _ := filepath.Glob(filepath.Join(dir, "lib*.so")) // a folder name with special characters finds nothing: the check says so
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil {
			continue // a real file
		}
		if _, err := os.Stat(link); err == nil {
			continue
		}
		below, err := filepath.Rel(tree.Root, dir)
		if err != nil {
			return err
		}
		for _, base := range []string{below, strings.TrimPrefix(below, "usr/")} {
			real := filepath.Join("/", base, filepath.Base(target))
			if _, err := os.Stat(real); err != nil {
				continue
			}
			if err := os.Symlink(real, filepath.Join(libs, filepath.Base(link))); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			break
		}
	}
	return nil
}

// quote makes s one word of a shell command.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// cleanEnv drops what would change the result: variables of an outer make, of compilers and of kernel builds.
func cleanEnv(env []string) []string {
	kept := slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "MAKEOVERRIDES", "GNUMAKEFLAGS", "ARCH", "CROSS_COMPILE", "CC", "LD", "AR", "CFLAGS", "LDFLAGS",
			"CPPFLAGS", "HOSTCC", "HOSTCFLAGS", "HOSTLDFLAGS", "LLVM", "O", "V", "W", "CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX",
			"COMPILER_PATH", "LOCALVERSION", "INSTALL_PATH", "SOURCE_DATE_EPOCH", "LC_ALL", "LANG", "LANGUAGE", "TZ":
			return true
		}
		return strings.HasPrefix(name, "KBUILD_") || strings.HasPrefix(name, "KCONFIG_") || strings.HasPrefix(name, "KC")
	})
	return append(kept, "LC_ALL=C", "TZ=UTC")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// tail returns the end of a tool's output.
func tail(s string) string {
	const limit = 3000
	if s = strings.TrimSpace(s); len(s) > limit {
		s = "…" + strings.ToValidUTF8(s[len(s)-limit:], "")
	}
	return s
}
