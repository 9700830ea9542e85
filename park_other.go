//go:build !linux

package mitm

import (
	"sync"
	"time"
)

// parkTick is how often parked sockets are looked at.
const parkTick = 2 * time.Second

// parking watches sockets on which nothing is expected: it looks at all of them every now and then, in
// the goroutine of a timer that runs while there are any. The zero value is ready.
type parking struct {
	mu      sync.Mutex
	parked  map[uint64]*parked
	last    uint64 // key in parked
	timer   *time.Timer
	running sync.WaitGroup // a count while the timer runs
}

// parked is a socket that is watched.
type parked struct {
	s    *stream
	wake func()
}

// park calls wake once, in a goroutine of its own, when something has arrived at s, its end or an
// error, unless leave was called first. It holds up others, so it must not wait for long. While s is
// parked nobody reads from it.
func (p *parking) park(s *stream, wake func()) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	key := p.last
	if p.parked == nil {
		p.parked = map[uint64]*parked{}
	}
	if p.parked[key] = (&parked{s, wake}); len(p.parked) == 1 {
		p.tick()
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.parked, key)
		if len(p.parked) == 0 && p.timer != nil && p.timer.Stop() {
			p.timer = nil
			p.running.Done()
		}
	}
}

// tick has the sockets looked at, in a while.
func (p *parking) tick() {
	if p.timer == nil {
		p.running.Add(1)
		p.timer = time.AfterFunc(parkTick, p.look)
	}
}

func (p *parking) look() {
	defer p.running.Done()
	for _, wake := range p.arrived() {
		wake()
	}
}

// arrived takes out the sockets on which something has happened.
func (p *parking) arrived() (wakes []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, w := range p.parked {
		if err := w.s.low.Control(w.s.probe); err != nil || w.s.err != errWouldBlock {
			wakes = append(wakes, w.wake)
			delete(p.parked, key)
		}
	}
	if p.timer = nil; len(p.parked) > 0 {
		p.tick()
	}
	return wakes
}

// close waits for the goroutine. Nothing is parked any more, nor will be.
func (p *parking) close() { p.running.Wait() }
