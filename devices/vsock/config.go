package vsock

import (
	"fmt"
	"log/slog"
	"time"
)

// Implementation limits. Each bounds what one guest can make the host hold or
// do.
const (
	rxQueueSize    = 256
	txQueueSize    = 256
	eventQueueSize = 8

	// maxTxChain bounds a chain of the tx queue. Twice the largest packet: a
	// buffer may be longer than its packet (§5.10.6), but not by any amount.
	maxTxChain = 2 * (MaxPayload + HeaderSize)

	replyStoreSize = 256       // RSTs to unknown connections; full: tx stops
	budgetPackets  = 256       // per pass of the worker and per flush
	budgetBytes    = 1 << 20   // likewise
	stageSize      = chunkSize // small writes merged per connection while the guest is slow
	stageWriteMax  = 4 << 10   // a rest greater than this waits in Write instead
	probeMin       = 10 * time.Millisecond
	probeMax       = time.Second

	// firstEphemeral is the first host port that Dial uses.
	firstEphemeral = 1 << 30
)

// Defaults of Config and the range of BufferSize.
const (
	DefaultMaxConns   = 64
	DefaultBufferSize = 256 << 10
	DefaultMaxBuffer  = 16 << 20
	DefaultSendWindow = 1 << 20
	DefaultTimeout    = 2 * time.Second

	MinBufferSize = 4 << 10
	MaxBufferSize = 64 << 20
)

// Config configures a Device. Only GuestCID is required.
type Config struct {
	// GuestCID is the context ID of the guest: ValidGuestCID must hold. It need
	// not be unique among the devices of a process, because no packet ever goes
	// from one guest to another.
	GuestCID uint64

	// Logger receives protocol violations of the guest, at most 10 per 5
	// seconds with a count of those suppressed. nil discards them.
	Logger *slog.Logger

	// MaxConns is how many connections may exist at once, in both directions
	// and including those whose end the guest has not yet acknowledged.
	// 0 means DefaultMaxConns.
	MaxConns int

	// BufferSize is the receive buffer in bytes that each connection advertises
	// to the guest (buf_alloc). Memory is taken as it fills. Larger is faster:
	// from 1 MiB the guest hardly ever waits. 0 means DefaultBufferSize.
	BufferSize int

	// MaxBuffer bounds the sum of the BufferSize of all connections in bytes;
	// connections beyond it are refused like those beyond MaxConns.
	// 0 means DefaultMaxBuffer, or BufferSize if that is greater.
	MaxBuffer int

	// SendWindow bounds the bytes in flight to the guest per connection,
	// whatever buffer the guest claims to have. 0 means DefaultSendWindow.
	SendWindow int

	// Backlog is how many connections a Listener holds before they are
	// accepted; more are refused. 0 means MaxConns.
	Backlog int

	// ConnectTimeout is how long the guest may take to answer Dial.
	// 0 means DefaultTimeout.
	ConnectTimeout time.Duration

	// CloseTimeout is how long, after Close, the guest may take to make room
	// for written data (counted from its last progress) and then to answer with
	// RST, before the connection is reset. 0 means DefaultTimeout.
	CloseTimeout time.Duration
}

// ConfigError is a Config field with an unusable value.
type ConfigError struct {
	Field string
	Value any
	Fix   string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("vsock: Config.%s = %v: %s", e.Field, e.Value, e.Fix)
}

// withDefaults checks c and fills in the zero values.
func (c Config) withDefaults() (Config, error) {
	if !ValidGuestCID(c.GuestCID) {
		return c, &ConfigError{"GuestCID", c.GuestCID, "use 3..4294967294; 0, 1, 2 and 4294967295 are reserved"}
	}
	for _, f := range []struct {
		name     string
		v        *int
		def      int
		min, max int
	}{
		{"MaxConns", &c.MaxConns, DefaultMaxConns, 1, 1 << 16},
		{"BufferSize", &c.BufferSize, DefaultBufferSize, MinBufferSize, MaxBufferSize},
		{"SendWindow", &c.SendWindow, DefaultSendWindow, MinBufferSize, MaxBufferSize},
		{"MaxBuffer", &c.MaxBuffer, max(DefaultMaxBuffer, c.BufferSize), c.BufferSize, 1 << 40},
		{"Backlog", &c.Backlog, c.MaxConns, 1, 1 << 16},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if f.name == "Backlog" && *f.v == 0 {
			*f.v = c.MaxConns
		}
		if *f.v < f.min || *f.v > f.max {
			return c, &ConfigError{f.name, *f.v, fmt.Sprintf("use %d..%d, or 0 for the default", f.min, f.max)}
		}
	}
	for _, f := range []struct {
		name string
		v    *time.Duration
	}{{"ConnectTimeout", &c.ConnectTimeout}, {"CloseTimeout", &c.CloseTimeout}} {
		if *f.v == 0 {
			*f.v = DefaultTimeout
		}
		if *f.v < 0 {
			return c, &ConfigError{f.name, *f.v, "use a positive duration, or 0 for the default"}
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.MaxConns = min(c.MaxConns, c.MaxBuffer/c.BufferSize)
	return c, nil
}
