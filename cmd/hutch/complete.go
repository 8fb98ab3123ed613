package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hutchvm/hutch/boot"
	"github.com/hutchvm/hutch/sandbox"
)

// completeTime bounds what a shell waits for an answer to the tabulator key.
const completeTime = 2 * time.Second

// names completes the first argument with named sandboxes: those that run, or all.
func names(running bool) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, _ := sandbox.Named() // without those whose record cannot be read
		var out []cobra.Completion
		for _, r := range list {
			if strings.HasPrefix(r.Name, prefix) && (r.Running || !running) {
				out = append(out, cobra.CompletionWithDesc(r.Name, clean(state(&r)))) // how it ended may be a guest's words
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// sessionsOf completes the second argument with the sessions of the sandbox that the first one names.
func sessionsOf(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return names(true)(c, args, prefix)
	}
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeTime)
	defer cancel()
	sb, err := sandbox.Connect(ctx, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer sb.Close()
	list, _ := sb.Sessions(ctx)
	var out []cobra.Completion
	for _, s := range list {
		if plainID.MatchString(s.ID) && strings.HasPrefix(s.ID, prefix) {
			out = append(out, cobra.CompletionWithDesc(s.ID, clean(strings.Join(s.Args, " "))))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// kernels completes the name of a kernel, or a file.
func kernels(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return withPrefix(append([]string{boot.RefHost}, cachedKernels()...), prefix), cobra.ShellCompDirectiveDefault
}

// oneKernel completes the first argument with them.
func oneKernel(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return kernels(c, args, prefix)
}

// kernelNames completes every argument with the names of the cache.
func kernelNames(_ *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return withPrefix(cachedKernels(), prefix), cobra.ShellCompDirectiveNoFileComp
}

func cachedKernels() (names []string) {
	list, _ := boot.Cached() // without those that cannot be read
	for _, k := range list {
		names = append(append(names, k.Name), k.Aliases...)
	}
	return names
}

func withPrefix(all []string, prefix string) (out []cobra.Completion) {
	for _, name := range all {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	return out
}
