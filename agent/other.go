//go:build !linux

package agent

// Main reports that the agent is a Linux program and returns 1.
func Main() int {
	println("hutch-agent: the agent runs on Linux only")
	return 1
}
