// Command agent is process 1 of a hutch microVM; see package agent.
package main

import (
	"os"

	"github.com/hutchvm/hutch/agent"
)

func main() { os.Exit(agent.Main()) }
