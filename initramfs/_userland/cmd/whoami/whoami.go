// Command whoami prints the name of the effective user, or its number when /etc/passwd has no name for it.
package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

func main() {
	uid := strconv.Itoa(os.Geteuid())
	if data, err := os.ReadFile("/etc/passwd"); err == nil {
		for line := range strings.Lines(string(data)) {
			if f := strings.Split(line, ":"); len(f) > 2 && f[2] == uid {
				fmt.Println(f[0])
				return
			}
		}
	}
	fmt.Println(uid)
}
