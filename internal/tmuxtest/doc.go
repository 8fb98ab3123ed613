// Package tmuxtest runs a program in a real terminal emulator, for tests of what a user sees: it starts a private tmux server, types keys, and
// reads the screen.
//
// # Primer
//
// tmux is a terminal multiplexer: its server makes a pseudo terminal for each pane, runs a program on it, and keeps the screen that the
// program's output draws, with cursor, attributes and the alternate screen, as any terminal emulator does. A session needs no client, so that
// nobody has to watch: send-keys types, capture-pane returns the screen as text, resize-window sets the size and sends SIGWINCH.
//
// # Layout and invariants
//
// Find returns tmux: $HUTCH_TMUX, else the one on PATH, else the distribution's package, fetched into the user's cache and not installed
// (package boot/debpkg). The program fetch does only that, and prints the path: for machines in which the tests will have no network.
//
// Start runs a program in a server of its own, with a socket in a folder of its own and no configuration file. The server, the programs in it
// and the folder are gone when the test ends. Every program gets exactly the environment it is started with.
//
// Nothing here waits for a time: WaitFor polls the screen until it is what the test wants, and fails with the last one after a generous
// deadline.
//
// # Testing
//
// The package's tests run sh in a pane. They need tmux, or a network to fetch it.
package tmuxtest
