package sandbox

// A Result is what a command left behind that Exec or Shell ran to its end.
type Result struct {
	state  *ProcessState
	stdout []byte
	stderr []byte

	droppedStdout, droppedStderr int64
}

// Stdout returns the standard output as a string; its bytes are exact, whether or not they are UTF-8.
func (r *Result) Stdout() string { return string(r.stdout) }

// Stderr returns the standard error as a string.
func (r *Result) Stderr() string { return string(r.stderr) }

// StdoutBytes returns the standard output. The caller may keep and change it.
func (r *Result) StdoutBytes() []byte { return r.stdout }

// StderrBytes returns the standard error. The caller may keep and change it.
func (r *Result) StderrBytes() []byte { return r.stderr }

// Dropped returns how many bytes of each stream WithExecMaxOutput left out between the start and the end that were kept.
func (r *Result) Dropped() (stdout, stderr int64) { return r.droppedStdout, r.droppedStderr }

// ExitCode returns the exit code, or -1 when a signal ended the command, or when it is not known because the error that came with the Result
// cut the command short; State tells these apart.
func (r *Result) ExitCode() int {
	if r.state == nil {
		return -1
	}
	return r.state.ExitCode()
}

// ShellExitCode returns the code that a shell would show: the exit code, 128+n when signal n ended the command, or -1 when it is not known.
func (r *Result) ShellExitCode() int {
	if r.state == nil {
		return -1
	}
	return r.state.ShellExitCode()
}

// Success says whether the command exited with code 0.
func (r *Result) Success() bool { return r.ExitCode() == 0 }

// State returns the details: signal, CPU time, byte totals. It is nil when the exit code is not known.
func (r *Result) State() *ProcessState { return r.state }

// Err returns nil when the exit code is 0, else an *ExitError; it also is nil when the exit code is not known, which the call's own error says.
func (r *Result) Err() error {
	if r.state == nil || r.Success() {
		return nil
	}
	return &ExitError{ProcessState: r.state, Stderr: r.stderr}
}
