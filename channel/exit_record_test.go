package channel

import "testing"

func TestExitRecordsThatNoProcessCanHaveAreInvalid(t *testing.T) {
	for _, tc := range []struct {
		code, signal int
		want         bool
	}{
		{0, 0, true}, {255, 0, true}, {-1, 9, true}, {-1, int(maxSignal), true},
		{256, 0, false}, {-1, 0, false}, {0, 9, false}, {-1, -9, false}, {-1, int(maxSignal) + 1, false}, {1 << 40, 0, false},
	} {
		if got := (&exitedMsg{Code: tc.code, Signal: tc.signal}).valid(); got != tc.want {
			t.Errorf("code %d, signal %d: valid = %v, want %v", tc.code, tc.signal, got, tc.want)
		}
	}
}
