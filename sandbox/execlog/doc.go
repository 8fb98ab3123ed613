// Package execlog keeps what the commands of a sandbox printed: every byte, with its time, its stream and the ID of the session it belongs to.
//
// A Sink takes Entries: the chunks of output as they arrived, and the sandbox's own lines about them (a session started, exited, lost output).
// There is one for a slog.Handler (NewHandler), one for any io.Writer (NewWriter: JSON lines), one for a file of JSON lines that rotates
// (OpenFile), and one for memory (NewRing). File and Ring are also Readers: a Query selects entries by time, source, session and cursor, takes the
// last ones, and follows what comes. Read does the same for a file that another process writes.
//
// # Bytes
//
// An Entry holds bytes, not text. In a JSON line they are the string "d" when they are valid UTF-8 by themselves and base64 in "b" when they are
// not; a character that two chunks share makes both base64. Joined in order, the entries of a session and source are what the command wrote.
//
// # Order
//
// A sink numbers its entries from 1. The number is the reader's cursor: Query.After goes on behind it. The streams of one session reach the sink
// by different ways: entries of stdout and stderr keep their own order, and their order towards each other is the one of arrival.
//
// The package knows nothing of sandboxes and can be tested and used alone.
package execlog
