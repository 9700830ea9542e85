package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// tally counts what workers do.
type tally struct {
	mu       sync.Mutex
	byKind   map[string]*counts
	failures []string // of different kinds, some
	failed   int
}

// counts are those of one kind.
type counts struct{ done, aborted, failed int64 }

// shownFailures is how many errors of one kind are printed.
const shownFailures = 5

// count returns how many have failed so far.
func (t *tally) count(kind string, n int, err error) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKind == nil {
		t.byKind = map[string]*counts{}
	}
	if t.byKind[kind] == nil {
		t.byKind[kind] = &counts{}
	}
	c := t.byKind[kind]
	c.done += int64(n)
	switch {
	case errors.Is(err, errAborted):
		c.aborted++
	case err != nil:
		t.failed++
		if c.failed++; c.failed <= shownFailures {
			t.failures = append(t.failures, fmt.Sprintf("%s, %s: %v", time.Now().Format(time.TimeOnly), kind, err))
		}
	}
	return t.failed
}

// reset forgets what went well.
func (t *tally) reset() {
	for _, c := range t.byKind {
		*c = counts{failed: c.failed}
	}
}

func (s *soak) header() {
	fmt.Fprintf(s, "# bench soak, %s\n\n", time.Now().Format(time.DateOnly))
	fmt.Fprintf(s, "-soak %v -tunnels %d -seed %d; %d workers, %d origins, idle connections kept for %v, %d CPUs, %s %s/%s.\n\n",
		s.soak, s.tunnels, s.seed, s.workers, soakOrigins, s.idle, runtime.NumCPU(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

func (s *soak) report(ctx context.Context) {
	s.table()
	s.load.tally.table(s)
	for _, f := range s.load.tally.failures {
		s.fail(f)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(s, "\nFAIL: interrupted")
	case len(s.failures) == 0:
		fmt.Fprintf(s, "\nPASS: every answer was right; goroutines within +%d, descriptors as before, live heap within 1.5 times + %d MiB of before.\n", spareGoroutines, spareHeap>>20)
	default:
		fmt.Fprintf(s, "\nFAIL: %d operations, %d complaints.\n\n- %s\n", s.load.tally.failed, len(s.failures), strings.Join(s.failures, "\n- "))
		fmt.Fprintf(s, "\nWhat is there:\n\n%s\n", s.leftovers(ctx))
	}
}

// table prints the samples.
func (s *soak) table() {
	fmt.Fprint(s, "\n| proxy |")
	for _, m := range s.moments {
		fmt.Fprintf(s, " %s |", m.name)
	}
	fmt.Fprintln(s, "\n|---|"+strings.Repeat("---:|", len(s.moments)))
	for _, row := range []struct {
		name  string
		value func(x *sample) int64
	}{
		{"goroutines", func(x *sample) int64 { return int64(x.Goroutines) }},
		{"descriptors", func(x *sample) int64 { return int64(x.Descriptors) }},
		{"live heap, KiB", func(x *sample) int64 { return x.Live >> 10 }},
		{"heap in use, KiB", func(x *sample) int64 { return x.Heap >> 10 }},
		{"stacks, KiB", func(x *sample) int64 { return x.Stacks >> 10 }},
		{"PSS, KiB", func(x *sample) int64 { return x.Memory >> 10 }},
	} {
		fmt.Fprintf(s, "| %s |", row.name)
		for i := range s.moments {
			fmt.Fprintf(s, " %d |", row.value(&s.moments[i].sample))
		}
		fmt.Fprintln(s)
	}
}

// table prints the counts.
func (t *tally) table(s *soak) {
	fmt.Fprint(s, "\n| operations | done | aborted | failed |\n|---|---:|---:|---:|\n")
	var sum counts
	for _, kind := range slices.Sorted(maps.Keys(t.byKind)) {
		c := t.byKind[kind]
		fmt.Fprintf(s, "| %s | %d | %d | %d |\n", kind, c.done, c.aborted, c.failed)
		sum = counts{sum.done + c.done, sum.aborted + c.aborted, sum.failed + c.failed}
	}
	fmt.Fprintf(s, "| all | %d | %d | %d |\n", sum.done, sum.aborted, sum.failed)
}
