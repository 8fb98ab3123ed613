package main

import (
	"os"
	"strings"
	"testing"
)

func TestHelloIsTheProgramOfTheREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```go\n")
	program, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README.md has no Go program")
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	if comment, code, _ := strings.Cut(string(source), "package main\n"); "package main\n"+code != program || comment == "" {
		t.Error("main.go and the first Go program of README.md differ: copy one to the other")
	}
}
