package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// sample is what the proxy holds at a moment. Sizes are in bytes.
type sample struct {
	Goroutines, Descriptors int
	Live, Heap, Stacks      int64 // Live is the part of Heap that is in objects
	Memory                  int64 // PSS
}

// moment is a sample with its name.
type moment struct {
	name string
	sample
}

// What may be left: a few goroutines of the runtime and of timers that are just running, and a
// heap that has caches (leaves, sessions, choices of origins) and pools of different fill. No
// descriptor: idle origin connections are waited for.
const (
	spareGoroutines = 2
	spareHeap       = 4 << 20
)

// heapBound is how large the live heap may be afterwards.
func (x *sample) heapBound() int64 { return x.Live*3/2 + spareHeap }

// complaints are what x has too much of, compared with before.
func (x *sample) complaints(before sample) (list []string) {
	complain := func(what string, has, had, bound int64) {
		if has > bound {
			list = append(list, fmt.Sprintf("%d %s, %d before, at most %d allowed", has, what, had, bound))
		}
	}
	complain("goroutines", int64(x.Goroutines), int64(before.Goroutines), int64(before.Goroutines+spareGoroutines))
	complain("descriptors", int64(x.Descriptors), int64(before.Descriptors), int64(before.Descriptors))
	complain("bytes of live heap", x.Live, before.Live, before.heapBound())
	return list
}

// sample asks the proxy and looks at its process.
func (s *soak) sample(ctx context.Context, collect bool) (x sample, err error) {
	var a allocations
	if err := s.proxy.ask(ctx, inquiry{Collect: collect}, &a); err != nil {
		return x, fmt.Errorf("proxy: %w", err)
	}
	u, err := used(s.proxy.cmd.Process.Pid)
	return sample{
		Goroutines: a.Goroutines, Descriptors: u.Descriptors,
		Live: int64(a.HeapLive), Heap: int64(a.HeapUse), Stacks: int64(a.Stacks), Memory: u.Memory,
	}, err
}

const (
	settlePause = 200 * time.Millisecond
	watchPause  = 500 * time.Millisecond
)

// settle waits for the proxy to come back to what it was.
func (s *soak) settle(ctx context.Context, before sample) (x sample, err error) {
	for end := time.Now().Add(s.rest); ; time.Sleep(settlePause) {
		x, err = s.sample(ctx, true)
		if err != nil || len(x.complaints(before)) == 0 || time.Now().After(end) {
			return x, err
		}
	}
}

// watcher takes samples while the proxy works, garbage included.
type watcher struct {
	done, ended chan struct{}
	peak        sample
	err         error
}

func (s *soak) watch(ctx context.Context) *watcher {
	w := &watcher{done: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		if w.err = w.run(ctx, s); w.err != nil {
			s.load.stop() // there is no proxy any more
		}
	}()
	return w
}

func (w *watcher) run(ctx context.Context, s *soak) error {
	for {
		x, err := s.sample(ctx, false)
		if err != nil {
			return err
		}
		w.peak.raise(x)
		select {
		case <-w.done:
			return nil
		case <-time.After(watchPause):
		}
	}
}

// stop returns the most that there was of each.
func (w *watcher) stop() (sample, error) {
	close(w.done)
	<-w.ended
	return w.peak, w.err
}

func (x *sample) raise(y sample) {
	*x = sample{
		max(x.Goroutines, y.Goroutines), max(x.Descriptors, y.Descriptors),
		max(x.Live, y.Live), max(x.Heap, y.Heap), max(x.Stacks, y.Stacks), max(x.Memory, y.Memory),
	}
}

// leftovers says where goroutines are and what descriptors lead to.
func (s *soak) leftovers(ctx context.Context) string {
	var a allocations
	if err := s.proxy.ask(ctx, inquiry{Traces: true}, &a); err != nil {
		return err.Error()
	}
	return a.Traces + "\n" + strings.Join(descriptorsOf(s.proxy.cmd.Process.Pid), "\n")
}

func descriptorsOf(pid int) (list []string) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, name := range names {
		to, _ := os.Readlink(name)
		list = append(list, filepath.Base(name)+" "+to)
	}
	slices.Sort(list)
	return list
}
