// Package execlog keeps what the commands of a sandbox printed: every byte, with its time, its stream and the ID of the session it belongs to.
//
// A Sink takes Entries: the chunks of output as they arrived, and the sandbox's own lines about them (a session started, exited, lost output). Sinks
// are chosen and owned by the caller, and several are joined by Multi:
//
//	OpenFile    a file of JSON lines that rotates            a Reader too
//	NewRing     memory, the newest entries                   a Reader too
//	NewWriter   any io.Writer: the same JSON lines           Read reads them from a file
//	NewHandler  any slog.Handler: one record for each line
//
// A Reader gives entries back: a Query selects them by time, source, session and cursor, takes the last ones, and follows what comes. The function Read
// does it for a file that another process writes. A sink of one's own needs the one method Log.
//
// The package knows nothing of sandboxes: it can be used and tested alone.
//
// # Bytes
//
// An Entry holds bytes, not text: a chunk may end within a line and within a character. Joined in order, the entries of a session and source are
// what the command wrote; output that could not be kept is a Gap entry in its place, never silence. Two streams of one session reach the sink by different ways:
// each keeps its own order, and their order towards each other is the one of arrival. The Output source is what went through one
// terminal or pipe, where the order is the command's.
//
// # Lines
//
// A File and a Writer keep each entry as one line, a JSON object (RFC 8259) and a newline:
//
//	{"t":"2026-02-03T04:05:06.789012345Z","s":"stdout","id":"8f14e45f","n":17,"d":"hello\n"}
//	{"t":"2026-02-03T04:05:06.789112345Z","s":"stdout","id":"8f14e45f","n":18,"b":"4oI="}
//	{"t":"2026-02-03T04:05:07.012345678Z","s":"system","id":"8f14e45f","n":19,"d":"exit status 1","e":{"kind":"exit","code":1}}
//
// "t" is the time in UTC (RFC 3339), "s" the source, "id" the session (left out if there is none), "n" the number. The bytes are "d", if they are
// valid UTF-8 by themselves, or else base64 (RFC 4648 §4) in "b"; a character that two chunks share makes both base64. "e" is the Event of a
// System entry. Members that a reader does not know are to be ignored. A line has at most 1 MiB. encoding/json
// makes such an object of an Entry, and an Entry of such an object.
//
// # Numbers
//
// A sink numbers its entries from 1, without holes; a File goes on where it was when it is opened again. The number is the reader's cursor: a Query
// whose After is the Seq of the last entry read goes on behind it, and gets a Gap if that is not kept any more.
//
// # What goes wrong
//
// Log returns what went wrong with its entry, and may be called again: the next entry that can be written is preceded by Gap entries, one for each
// session and source, that count the bytes which are missing. A line that could be written in part, because the disk is full, is taken back; where that
// fails too, the next line begins on a line of its own. A crash may leave a torn line at the end of a file: OpenFile cuts it off and logs
// a Gap. A line that is no entry, whoever wrote it, is a *CorruptError to the reader, which goes on behind it.
//
// One process writes a File, kept by a lock (flock) on path.lock; others read it and need no lock. A reader finds its way across rotations by the
// identity of files, not by their names.
//
// # How it is tested
//
// Tests log and read every byte value, characters in parts, and writes that end at every offset; they kill a process that writes, limit the size
// of its files, rotate under readers and follow from another process. FuzzDecodeLine checks the form of lines in both ways. BenchmarkLog shows
// the cost of an entry, BenchmarkRead and BenchmarkTail that of reading all and the last of them.
package execlog
