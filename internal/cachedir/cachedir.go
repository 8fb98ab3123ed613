// Package cachedir names the one folder under which hutch keeps what it fetched or built, and locks parts of it.
//
// The folder is $HUTCH_CACHE when that is set, else hutch inside os.UserCacheDir (which honours an absolute XDG_CACHE_HOME). Everything in it can be
// deleted at any time while no hutch process runs; the next run fetches or builds it again.
package cachedir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Env is the environment variable that overrides the cache folder.
const Env = "HUTCH_CACHE"

// Dir returns the cache folder joined with elem and makes sure it exists (mode 0755, subject to the umask).
//
// Errors: an *os.PathError when the folder cannot be made, or an error naming the variables to set when the user has no home.
// Safe for concurrent use.
func Dir(elem ...string) (string, error) {
	root := os.Getenv(Env)
	if root == "" {
		user, err := userCacheDir()
		if err != nil {
			return "", fmt.Errorf("cache folder: %w (set HOME, XDG_CACHE_HOME or %s)", err, Env)
		}
		root = filepath.Join(user, "hutch")
	}
	dir := filepath.Join(append([]string{root}, elem...)...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cache folder: %w (set %s to a folder that can be written)", err, Env)
	}
	return dir, nil
}

// userCacheDir is os.UserCacheDir, but for a relative XDG_CACHE_HOME, which is ignored: "If an implementation encounters a relative path in any of these
// variables it should consider the path invalid and ignore it" (XDG Base Directory Specification 0.8, "Basics").
func userCacheDir() (string, error) {
	if xdg := os.Getenv("XDG_CACHE_HOME"); xdg == "" || filepath.IsAbs(xdg) || runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		return os.UserCacheDir()
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".cache"), err
}
