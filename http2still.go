package mitm

import (
	"sync"
	"sync/atomic"
	"time"
)

// This file finds content of HTTP/2 that stalls: net/http has no deadlines for it, or none that
// move with it.

// motion tracks whether content moves, in one direction or both. It has stalled if a Read or Write
// is pending and nothing moves; time in which nobody reads or writes does not count.
type motion struct {
	waits atomic.Int32 // reads and writes in progress
	since atomic.Int64 // when something moved, or the first of them began, in Unix nanoseconds
}

// wait is called before a read or a write.
func (m *motion) wait() {
	if m.waits.Load() == 0 {
		m.touch()
	}
	m.waits.Add(1)
}

// moved is called after it.
func (m *motion) moved() {
	m.touch()
	m.waits.Add(-1)
}

// touch is called between several that follow each other.
func (m *motion) touch() { m.since.Store(time.Now().UnixNano()) }

func (m *motion) standsStill(limit time.Duration) bool {
	return m.waits.Load() > 0 && time.Since(time.Unix(0, m.since.Load())) >= limit
}

// mover is what a sweeper watches.
type mover interface {
	standsStill(limit time.Duration) bool
	expire() // because it does
	over() bool
}

// sweeper ends what has stalled. One timer for all is enough, since it need not be precise.
type sweeper struct {
	limit time.Duration // 0 or less: none

	mu      sync.Mutex
	watched map[mover]struct{}
	timer   *alarm // nil: nothing is watched
	over    bool
}

func (s *sweeper) watch(m mover) {
	if s.limit <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watched == nil {
		s.watched = map[mover]struct{}{}
	}
	s.watched[m] = struct{}{}
	if s.timer == nil && !s.over {
		s.timer = newAlarm(s.limit/2, s.sweep)
	}
}

// forget makes sure that m does not expire any more.
func (s *sweeper) forget(m mover) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watched, m)
}

// sweep also forgets what was not removed by its owner. It returns when it is to be called again.
func (s *sweeper) sweep() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m := range s.watched {
		switch {
		case m.over():
			delete(s.watched, m)
		case m.standsStill(s.limit):
			m.expire()
		}
	}
	if len(s.watched) == 0 {
		s.timer = nil
		return 0
	}
	return s.limit / 2
}

// stop is for the end, when nothing is watched any more. No sweep is under way when it returns.
func (s *sweeper) stop() {
	s.mu.Lock()
	s.over = true
	timer := s.timer
	s.mu.Unlock()
	timer.stop()
}
