package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// job is what the load generator is told to do.
type job struct {
	Kind   kind
	Conns  int
	Size   int64         // of content
	Window time.Duration // how long to measure
	Warm   time.Duration // how long to run before
	Way    way
}

// result is what a load generator has measured.
type result struct {
	Operations int64
	Bytes      int64
	Seconds    float64
	P50, P99   float64 // of an operation, in microseconds
	Resumed    int64   // TLS sessions
	Error      string
}

// client is one connection of the load generator, or what stands for it.
type client interface {
	// open gets the connection ready.
	open() error
	// do does one operation. It returns how many bytes of content were moved, and how long
	// somebody waited.
	do() (n int64, d time.Duration, err error)
	close()
}

// kinds make the client number i.
var kinds = map[kind]func(j *job, i int) client{
	exchanges:  func(j *job, _ int) client { return newExchanger(j, "GET") },
	posts:      func(j *job, _ int) client { return newExchanger(j, "POST") },
	events:     func(j *job, _ int) client { return &eventReader{exchanger: *newExchanger(j, "GET")} },
	streams:    func(j *job, _ int) client { return &http2Client{job: j} },
	handshakes: func(j *job, i int) client { return newHandshaker(j, i) },
	tunnels:    func(j *job, _ int) client { return &tunnelOpener{job: j} },
	down:       func(j *job, _ int) client { return &tunnelClient{job: j, what: orderDown} },
	up:         func(j *job, _ int) client { return &tunnelClient{job: j, what: orderUp} },
	both:       func(j *job, _ int) client { return &tunnelClient{job: j, what: orderBoth} },
	ping:       func(j *job, _ int) client { return &tunnelClient{job: j, what: orderPing} },
}

// loadRole does one job. It says when everything is connected and warm, waits for the word,
// measures and tells the result; then it waits again before it closes the connections.
func loadRole(c *control) error {
	var j job
	if err := c.receive(&j); err != nil {
		return err
	}
	g := newGenerator(&j)
	g.each(64, client.open)
	if j.Warm > 0 && g.err == nil {
		g.run(j.Warm, warmOperations)
	}
	if err := c.send(g.result()); err != nil {
		return err
	}
	if err := c.receive(new(any)); err != nil {
		return err
	}
	if g.err == nil && j.Window > 0 {
		g.run(j.Window, 1)
	}
	if err := c.send(g.result()); err != nil {
		return err
	}
	err := c.receive(new(any))
	g.each(len(g.clients), func(c client) error { c.close(); return nil })
	return cmpErr(c.send(g.result()), err)
}

// generator runs the clients of a job.
type generator struct {
	job     *job
	clients []client

	mu      sync.Mutex
	err     error // the first
	bytes   int64
	seconds float64
	delays  []time.Duration
	resumed int64
}

func newGenerator(j *job) *generator {
	g := &generator{job: j}
	for i := range j.Conns {
		g.clients = append(g.clients, kinds[j.Kind](j, i))
	}
	return g
}

// each calls f for all clients, a few at a time.
func (g *generator) each(atOnce int, f func(client) error) {
	var wait sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, c := range g.clients {
		slots <- struct{}{}
		wait.Go(func() {
			defer func() { <-slots }()
			g.fail(f(c))
		})
	}
	wait.Wait()
}

func (g *generator) fail(err error) {
	if err == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = cmpErr(g.err, err)
}

// warmOperations is how many operations every client has behind it before anything is measured.
const warmOperations = 3

// run lets all clients do operations, each as many as there must be, until the window ends.
func (g *generator) run(window time.Duration, atLeast int) {
	g.bytes, g.delays, g.resumed = 0, g.delays[:0], 0
	start := time.Now()
	ctx, cancel := context.WithDeadline(context.Background(), start.Add(window))
	defer cancel()
	g.each(len(g.clients), func(c client) error {
		err := g.runClient(ctx, c, atLeast)
		if err != nil {
			cancel()
		}
		return err
	})
	g.seconds = time.Since(start).Seconds()
}

func (g *generator) runClient(ctx context.Context, c client, atLeast int) error {
	var delays []time.Duration
	var bytes int64
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.delays, g.bytes = append(g.delays, delays...), g.bytes+bytes
		if h, ok := c.(*handshaker); ok {
			g.resumed, h.resumed = g.resumed+h.resumed, 0
		}
	}()
	deadline, _ := ctx.Deadline()
	for len(delays) < atLeast || time.Now().Before(deadline) && ctx.Err() == nil {
		n, d, err := c.do()
		if err != nil {
			return fmt.Errorf("operation %d: %w", len(delays), err)
		}
		delays, bytes = append(delays, d), bytes+n
	}
	return nil
}

func (g *generator) result() result {
	slices.Sort(g.delays)
	r := result{
		Operations: int64(len(g.delays)), Bytes: g.bytes, Seconds: g.seconds, Resumed: g.resumed,
		P50: quantile(g.delays, 0.5), P99: quantile(g.delays, 0.99),
	}
	if g.err != nil {
		r.Error = g.err.Error()
	}
	return r
}

// quantile returns one of sorted durations, in microseconds.
func quantile(sorted []time.Duration, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(q*float64(len(sorted)-1)+0.5)]) / float64(time.Microsecond)
}

var errAnswer = errors.New("wrong answer")
