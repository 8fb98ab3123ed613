package channel

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/hutchvm/hutch/internal/errdoc"
)

// greeted returns what NewClient says of an agent with this hello.
func greeted(t *testing.T, h Hello) error {
	t.Helper()
	host, guest := net.Pipe()
	defer guest.Close()
	go writeFrame(guest, &h)
	c, err := NewClient(context.Background(), host, Config{})
	if c != nil {
		c.Close()
		t.Fatal("the handshake succeeded")
	}
	return err
}

func TestTheCatalogueHasWhatTheHandshakeAndTheLimitsSay(t *testing.T) {
	messages := map[string]string{}
	for name, version := range map[string]int{"agent-older": Version - 1, "agent-newer": Version + 1} {
		err := greeted(t, Hello{Magic: magic, Version: version, Build: "github.com/hutchvm/hutch v0.9.0 go1.26.0"})
		var ve *VersionError
		if !errors.As(err, &ve) || ve.Agent != version || ve.Host != Version {
			t.Fatalf("%s: %v, want a *VersionError of %d and %d", name, err, version, Version)
		}
		messages[name] = err.Error()
	}
	err := greeted(t, Hello{Magic: "SSH-2.0", Version: Version})
	var pe *ProtocolError
	if !errors.As(err, &pe) {
		t.Fatalf("%v, want a *ProtocolError", err)
	}
	messages["no-agent-there"] = err.Error()
	_, err = appendFrame(nil, &Request{Args: []string{string(make([]byte, 3<<20))}})
	messages["request-too-large"] = err.Error()
	messages["too-many-commands"] = (&LimitError{What: LimitSessions, Max: defaultMaxSessions}).Error()
	r := &Request{Session: "s", Replay: MaxReplay}
	messages["replay-too-large"] = (&failedMsg{Stage: StageLimit, Why: ReasonReplay, Max: 30 << 20}).err(r).Error()
	errdoc.Compare(t, "channel", messages)
}

func TestAHelloOfAnotherVersionIsToldBeforeItsOtherFieldsAreRead(t *testing.T) {
	host, guest := net.Pipe()
	defer guest.Close()
	go writeFrame(guest, &struct {
		Magic   string   `cbor:"1,keyasint"`
		Version int      `cbor:"2,keyasint"`
		Build   []string `cbor:"3,keyasint"`
	}{magic, Version + 7, []string{"later"}})
	var ve *VersionError
	if _, err := NewClient(context.Background(), host, Config{}); !errors.As(err, &ve) || ve.Agent != Version+7 || ve.Host != Version {
		t.Errorf("%v, want a *VersionError", err)
	}
}

func TestALimitNamesTheNumbers(t *testing.T) {
	for _, c := range []struct {
		r    Request
		need int
	}{
		{Request{Replay: 16 << 20}, 32 << 20}, {Request{}, 2 << 20}, {Request{TTY: &TTY{}, Replay: 5}, 5}, {Request{Wired: wiredMerged, Replay: 5}, 5},
	} {
		var le *LimitError
		if err := (&failedMsg{Stage: StageLimit, Why: ReasonReplay, Max: 9}).err(&c.r); !errors.As(err, &le) || le.Need != c.need || le.Max != 9 || le.What != LimitReplay {
			t.Errorf("%+v: %+v, want %d needed of 9", c.r, le, c.need)
		}
	}
	for what, want := range map[string]string{
		LimitAgentSessions: "channel: 7 commands run already, the most that run at once: wait for some to end, or use another sandbox",
		LimitStreams:       "channel: 7 streams have been opened, all that a connection has: use a new sandbox",
		"odd things":       "channel: limit of 7 odd things reached",
		LimitReplay: "channel: detachable commands keep at most 7 bytes of output in all, an eighth of the guest's memory: ask for less (a command without a terminal " +
			"keeps its replay twice, for stdout and stderr), end others, or give the guest more memory",
	} {
		if got := (&LimitError{What: what, Max: 7}).Error(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}
