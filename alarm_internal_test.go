package mitm

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// When stop has returned nothing runs any more, also if it came while something did.
func TestAlarm(t *testing.T) {
	for _, at := range []time.Duration{0, time.Second / 2, time.Second, 3 * time.Second / 2, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			var running, rang atomic.Int32
			a := newAlarm(time.Second, func() time.Duration {
				running.Add(1)
				time.Sleep(time.Second)
				running.Add(-1)
				return time.Duration(3-rang.Add(1)) * time.Second
			})
			time.Sleep(at)
			a.stop()
			was := rang.Load()
			if running.Load() != 0 {
				t.Errorf("after %v: it runs", at)
			}
			a.stop()
			time.Sleep(time.Minute)
			if got := rang.Load(); got != was || got > 3 {
				t.Errorf("after %v: it rang %d times, then %d", at, was, got)
			}
		})
	}
	(*alarm)(nil).stop()
}

func TestOnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ran atomic.Bool
		ctx, cancel := context.WithCancel(t.Context())
		if stop := onEnd(ctx, func() { ran.Store(true) }); !stop() || ran.Load() {
			t.Error("it was not stopped")
		}
		stop := onEnd(ctx, func() { time.Sleep(time.Second); ran.Store(true) })
		cancel()
		if stop() || !ran.Load() {
			t.Error("it was not waited for")
		}
	})
}
