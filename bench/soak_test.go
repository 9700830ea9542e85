package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// shortSoak is one that takes some seconds.
func shortSoak(w io.Writer) *soak {
	o := options{soak: 2 * time.Second, tunnels: 500, seed: 1}
	return &soak{Writer: w, options: o, workers: 8, warm: 1, idle: time.Second, rest: 10 * time.Second}
}

// Whatever clients do, every answer is right and nothing is left.
func TestSoak(t *testing.T) {
	var out bytes.Buffer
	s := shortSoak(&out)
	if err := s.run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	done := s.load.tally.byKind["tunnels opened and closed"]
	if done == nil || done.done != 500 {
		t.Errorf("tunnels: %+v", done)
	}
	if n := len(s.moments); n != 6 {
		t.Errorf("%d samples", n)
	}
	if !strings.Contains(out.String(), "\nPASS") {
		t.Errorf("no verdict:\n%s", &out)
	}
}

// Every kind does something that counts.
func TestSoakKinds(t *testing.T) {
	s := launched(t)
	w := &worker{load: s.load, Rand: rand.New(rand.NewPCG(1, 1))}
	defer w.release()
	for _, k := range soakKinds {
		for range 8 {
			w.try(t.Context(), &k)
		}
		c := s.load.tally.byKind[k.name]
		if c.done+c.aborted == 0 || c.failed > 0 {
			t.Errorf("%s: %+v", k.name, c)
		}
		if strings.HasPrefix(k.name, "abort") && c.aborted == 0 {
			t.Errorf("%s: nothing was aborted", k.name)
		}
	}
	for _, f := range s.load.tally.failures {
		t.Error(f)
	}
}

// launched returns a soak whose processes run.
func launched(t *testing.T) *soak {
	t.Helper()
	s := shortSoak(io.Discard)
	var err error
	if s.site, err = newSite(false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.site.close)
	t.Cleanup(s.end)
	if err := s.launch(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// A connection that stays is found.
func TestSoakLeft(t *testing.T) {
	s := launched(t)
	s.rest = 100 * time.Millisecond
	var err error
	if s.before, err = s.sample(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	var nc net.Conn
	err = s.phase(t.Context(), "held", func() {
		nc, err = (&way{Dial: s.load.proxy}).connect()
		if err != nil {
			t.Fatal(err)
		}
	})
	defer nc.Close()
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(s.failures, "\n"); !strings.Contains(all, "descriptors") {
		t.Errorf("complaints: %q", all)
	}
	if text := s.leftovers(t.Context()); !strings.Contains(text, "goroutine profile") || !strings.Contains(text, "socket:") {
		t.Errorf("left: %s", text)
	}
}

// A proxy that ends is a failure, and an interrupted soak ends soon.
func TestSoakEnds(t *testing.T) {
	for name, end := range map[string]func(s *soak, cancel func()){
		"proxy":     func(s *soak, _ func()) { s.proxy.kill() },
		"interrupt": func(_ *soak, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s := launched(t)
			time.AfterFunc(300*time.Millisecond, func() { end(s, cancel) })
			err := s.phase(ctx, "long", func() { s.load.mixed(ctx, 4, time.Hour) })
			if err == nil {
				t.Error("no error")
			}
		})
	}
}

// A wrong answer is counted as a failure, an abort is not.
func TestSoakTally(t *testing.T) {
	l := newSoakLoad(1, "")
	wrong := answering(t, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
	l.proxy, l.origins = wrong.Dial, []originPorts{{HTTP: 1}}
	w := &worker{load: l, Rand: rand.New(rand.NewPCG(1, 1))}
	w.try(t.Context(), &soakKind{name: "a", do: (*worker).plain})
	w.try(t.Context(), &soakKind{name: "b", do: func(*worker) (int, error) { return 3, errAborted }})
	if a := l.tally.byKind["a"]; a.failed != 1 || a.done != 0 {
		t.Errorf("%+v", a)
	}
	if b := l.tally.byKind["b"]; *b != (counts{done: 3, aborted: 1}) {
		t.Errorf("%+v", b)
	}
	if l.tally.failed != 1 || len(l.tally.failures) != 1 {
		t.Errorf("failures %q", l.tally.failures)
	}
}

func TestComplaints(t *testing.T) {
	before := sample{Goroutines: 2, Descriptors: 10, Live: 1 << 20}
	for _, test := range []struct {
		after sample
		want  int
	}{
		{before, 0},
		{sample{Goroutines: 4, Descriptors: 9, Live: 5 << 20}, 0},
		{sample{Goroutines: 5, Descriptors: 10}, 1},
		{sample{Goroutines: 2, Descriptors: 11}, 1},
		{sample{Live: 6 << 20}, 1},
	} {
		if got := test.after.complaints(before); len(got) != test.want {
			t.Errorf("%+v: %q", test.after, got)
		}
	}
}

// A fuse lets through exactly what it should, in both directions.
func TestFuse(t *testing.T) {
	for _, reset := range []bool{false, true} {
		far, f := fused(t, reset)
		f.writes.Store(5)
		n, err := f.Write([]byte("0123456789"))
		got, end := io.ReadAll(far)
		if n != 5 || !errors.Is(err, errAborted) || string(got) != "01234" && !reset {
			t.Errorf("reset %v: wrote %d, %v; got %q, %v", reset, n, err, got, end)
		}
		if (end != nil) != reset {
			t.Errorf("reset %v: ended with %v", reset, end)
		}
		far, f = fused(t, reset)
		f.reads.Store(5)
		io.WriteString(far, "0123456789")
		if got, err := io.ReadAll(f); string(got) != "01234" || !errors.Is(err, errAborted) || !f.blown.Load() {
			t.Errorf("reset %v: read %q, %v", reset, got, err)
		}
	}
}

// fused returns both ends of a connection.
func fused(t *testing.T, reset bool) (far net.Conn, f *fuse) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return far, newFuse(near, reset)
}
