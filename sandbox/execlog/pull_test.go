package execlog

import "iter"

type iterator func() (Entry, error, bool)

func pull(s iter.Seq2[Entry, error]) (iterator, func()) {
	next, stop := iter.Pull2(s)
	return next, stop
}
