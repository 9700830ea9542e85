package mitm

import (
	"context"
	"sync"
	"time"
)

// This file has timers and callbacks whose goroutines can be waited for. What package time and
// package context offer may still be running when Stop has returned.

// alarm calls look after a time, and again for as long as look asks for more of it.
type alarm struct {
	look  func() (rest time.Duration) // 0 or less: never again
	ended chan struct{}               // closed when look is not called any more

	mu     sync.Mutex
	timer  *time.Timer
	sooner time.Duration // what reset asked for while look was running; 0: nothing
	off    bool
}

func newAlarm(d time.Duration, look func() time.Duration) *alarm {
	a := &alarm{look: look, ended: make(chan struct{})}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(d, a.ring)
	return a
}

// after returns an alarm that calls f once.
func after(d time.Duration, f func()) *alarm {
	return newAlarm(d, func() time.Duration { f(); return 0 })
}

func (a *alarm) ring() {
	rest := a.look()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sooner > 0 {
		rest, a.sooner = min(rest, a.sooner), 0
	}
	if rest > 0 && !a.off {
		a.timer.Reset(rest)
		return
	}
	a.off = true
	close(a.ended)
}

// reset makes the alarm ring after d, if it is still to ring.
func (a *alarm) reset(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.off:
	case a.timer.Stop():
		a.timer.Reset(d)
	default:
		a.sooner = d
	}
}

// stop returns when look is not running and will not be called any more. It may be called more than
// once, but neither by look nor while a lock is held that look needs.
func (a *alarm) stop() {
	if a.cancel(); a != nil {
		<-a.ended
	}
}

// cancel is stop that does not wait for a look that is running.
func (a *alarm) cancel() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.off && a.timer.Stop() {
		close(a.ended)
	}
	a.off = true
}

// onEnd calls f in a goroutine of its own when ctx ends, unless stop comes first. When stop has
// returned, f is not running. It reports whether f was not called.
func onEnd(ctx context.Context, f func()) (stop func() bool) {
	ended := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(ended)
		f()
	})
	return func() bool {
		if cancel() {
			return true
		}
		<-ended
		return false
	}
}

// tasks are goroutines that nobody waits for until wait.
type tasks struct {
	mu      sync.Mutex
	over    bool
	running sync.WaitGroup
}

// run calls f in a goroutine of its own. After wait it does nothing.
func (t *tasks) run(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.running.Go(f)
	}
}

// wait returns when all have ended.
func (t *tasks) wait() {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	t.running.Wait()
}
