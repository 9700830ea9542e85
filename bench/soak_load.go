package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// soakLoad is the clients of a soak.
type soakLoad struct {
	seed    uint64
	roots   string
	proxy   string // host:port
	origins []originPorts
	tally   tally

	stopped chan struct{}
	stop    func()
}

func newSoakLoad(seed uint64, roots string) *soakLoad {
	l := &soakLoad{seed: seed, roots: roots, stopped: make(chan struct{})}
	l.stop = sync.OnceFunc(func() { close(l.stopped) })
	return l
}

// over reports whether there is to be no more load.
func (l *soakLoad) over(ctx context.Context) bool {
	select {
	case <-l.stopped:
		return true
	default:
		return ctx.Err() != nil
	}
}

// each runs f with some workers at once, each with chances of its own.
func (l *soakLoad) each(phase uint64, workers int, f func(w *worker)) {
	var wait sync.WaitGroup
	for i := range workers {
		w := &worker{load: l, number: i, Rand: rand.New(rand.NewPCG(l.seed, phase<<32|uint64(i)))}
		wait.Go(func() {
			defer w.release()
			f(w)
		})
	}
	wait.Wait()
}

// warm has each worker do everything some times.
func (l *soakLoad) warm(ctx context.Context, workers, times int) {
	l.each(0, workers, func(w *worker) {
		for range times {
			for i := range soakKinds {
				w.try(ctx, &soakKinds[i])
			}
		}
	})
}

// mixed is for a while what chance says.
func (l *soakLoad) mixed(ctx context.Context, workers int, d time.Duration) {
	end := time.Now().Add(d)
	l.each(1, workers, func(w *worker) {
		for time.Now().Before(end) && !l.over(ctx) {
			w.try(ctx, w.kind())
		}
	})
}

// tunnels opens and closes n tunnels, with a message each way.
func (l *soakLoad) tunnels(ctx context.Context, workers, n int) {
	k := soakKind{name: "tunnels opened and closed", do: (*worker).shortTunnel}
	var begun atomic.Int64
	l.each(2, workers, func(w *worker) {
		for begun.Add(1) <= int64(n) && !l.over(ctx) {
			w.try(ctx, &k)
		}
	})
}

// worker does one thing after the other.
type worker struct {
	*rand.Rand
	load   *soakLoad
	number int
	dials  int
	last   *fuse // of the connection that was dialled last
	held   []held
}

// errAborted is that of what a worker has aborted itself.
var errAborted = errors.New("aborted")

// maxFailures ends a soak that goes wrong all the time.
const maxFailures = 100

// try does something and counts it. What comes after the end is not counted.
func (w *worker) try(ctx context.Context, k *soakKind) {
	if w.load.over(ctx) {
		return
	}
	w.last = &fuse{}
	n, err := k.do(w)
	if ctx.Err() == nil && w.load.tally.count(k.name, n, err) >= maxFailures {
		w.load.stop()
	}
}

// kind returns one by chance.
func (w *worker) kind() *soakKind {
	sum := 0
	for _, k := range soakKinds {
		sum += k.weight
	}
	at := w.IntN(sum)
	for i := range soakKinds {
		if at -= soakKinds[i].weight; at < 0 {
			return &soakKinds[i]
		}
	}
	panic("not reached")
}

// size returns how much content there is to be.
func (w *worker) size() int64 {
	switch n := w.IntN(100); {
	case n < 75:
		return small
	case n < 97:
		return medium
	}
	return w.bulk()
}

// bulk returns the length of content that takes its time.
func (w *worker) bulk() int64 { return 1<<20 + w.Int64N(3<<20) }

// way leads to the port of an origin that from names. Connections of a worker come from eight
// addresses in turn: those that clients close orderly keep their ports for a minute
// (TIME_WAIT), and one address has 28,000 of them.
func (w *worker) way(port func(*originPorts) int) way {
	origin := &w.load.origins[w.IntN(len(w.load.origins))]
	w.dials++
	return way{
		Dial: w.load.proxy, Source: net.IPv4(127, 0, byte(8+w.number), byte(1+w.dials%8)).String(), Forward: true,
		Authority: loopback(port(origin)), Protocol: "http/1.1", Roots: w.load.roots, wrap: w.light,
	}
}

// soakLimit is how long something may take: what does not end then has failed.
const soakLimit = time.Minute

// light puts a fuse on a connection.
func (w *worker) light(nc net.Conn) net.Conn {
	nc.SetDeadline(time.Now().Add(soakLimit))
	w.last = newFuse(nc, w.IntN(2) == 0)
	return w.last
}

// end closes a connection, sometimes with a reset.
func (w *worker) end(c interface{ close() }) {
	if w.IntN(4) == 0 {
		w.last.linger()
	}
	c.close()
}
