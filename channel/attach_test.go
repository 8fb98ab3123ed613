package channel

import (
	"context"
	"errors"
	"io"
	"testing"
)

func TestHostileSessionMessagesAreRefused(t *testing.T) {
	for name, m := range map[string]*attachedMsg{
		"negative cursor": {Stdout: -1}, "huge cursor": {Stdout: maxCursor + 1}, "cursor before the wanted one": {Stdout: 9},
		"cursor behind the wanted one without AllowGap": {Stdout: 11},
	} {
		c, guest := fakeAgent(t)
		go io.Copy(io.Discard, guest)
		p := c.newProcess(context.Background(), &Request{Session: "s"}, Stdio{})
		p.attach = &AttachRequest{FromStdout: 10}
		if over, err := p.handle(&agentMsg{Attached: m}); over || !errors.Is(err, ErrAgentLost) || isClosed(p.started) {
			t.Errorf("%s: %v, %v", name, over, err)
		}
		c.Close()
	}
	for name, m := range map[string]*agentMsg{
		"gap backwards":        {Gap: &gapMsg{Want: 9, Have: 12}},
		"empty gap":            {Gap: &gapMsg{Want: 12, Have: 12}},
		"huge gap":             {Gap: &gapMsg{Want: 12, Have: maxCursor + 1}},
		"unasked detachment":   {Detached: &detachedMsg{}},
		"second attachment":    {Attached: &attachedMsg{Stdout: 10}},
		"start after attached": {Started: &startedMsg{}},
	} {
		c, guest := fakeAgent(t)
		go io.Copy(io.Discard, guest)
		p := c.newProcess(context.Background(), &Request{Session: "s"}, Stdio{})
		p.attach = &AttachRequest{FromStdout: 10, AllowGap: true}
		if _, err := p.handle(&agentMsg{Attached: &attachedMsg{Stdout: 10}}); err != nil {
			t.Fatal(err)
		}
		if over, err := p.handle(m); !errors.Is(err, ErrAgentLost) {
			t.Errorf("%s: %v, %v", name, over, err)
		}
		c.Close()
	}
}

func TestListedSessionsAreBounded(t *testing.T) {
	for name, m := range map[string]sessionMsg{
		"long ID":          {ID: string(make([]byte, maxSessionID+1))},
		"many arguments":   {Args: make([]string, maxListArgs+1)},
		"long arguments":   {Args: []string{string(make([]byte, maxListArgBytes+1))}},
		"cursors reversed": {Stdout: Kept{From: 2, To: 1}},
		"negative cursor":  {Stderr: Kept{From: -1, To: 1}},
		"impossible exit":  {Exit: &exitedMsg{Code: 256}},
		"totals alone":     {Totals: &drainedMsg{}},
	} {
		if m.valid() {
			t.Errorf("%s is valid", name)
		}
	}
	s := sessionOf(1, &SessionInfo{ID: "s", Args: []string{string(make([]byte, 2000)), "x"}})
	if !s.valid() || !s.ArgsCut || len(s.Args) != 1 {
		t.Errorf("%+v", s)
	}
}
