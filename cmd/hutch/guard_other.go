//go:build !linux

package main

import "github.com/spf13/cobra"

func guardTerminal() (release func()) { return func() {} }

func newGuard() *cobra.Command { return &cobra.Command{Use: "guard", Hidden: true} }
