package mitm

import (
	"net"
	"net/netip"
	"sync"
)

// loopGuard notices connections that the proxy makes to itself without knowing: because somebody
// asked for its own address, or because a firewall rule that does not exclude the proxy's own traffic
// leads what it dials back to it. Such a connection is dialled and accepted with the same two ends: the
// source address of the one is the client address of the other, and both have the same destination.
// Of two connections that is proof enough: no system has two that have both ends in common. A local
// client may happen to use the same source port as one of our connections to the same destination, so
// connections accepted before we began to dial are ignored.
type loopGuard struct {
	mu       sync.Mutex
	dialled  map[ends]noted
	accepted map[ends]noted
	clock    uint64 // of what was noted
}

// ends are who connects and where to, before any rule changed it.
type ends struct{ from, to netip.AddrPort }

// noted is how many connections with the same ends there are, and when the last was noted.
type noted struct {
	count int
	last  uint64
	shown chan struct{} // of what was dialled: closed when it turns out to be a loop; nil: nobody waits
	loop  bool          // of what was dialled: it has turned out to be one
}

// now is to be asked before a connection is dialled.
func (g *loopGuard) now() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clock
}

// dial notes a connection that the proxy has been making since then, accept one made to it. Both
// say whether it is a loop; whichever comes second knows. done is to be called when the connection
// is over, or certainly no loop.
func (g *loopGuard) dial(e ends, since uint64) (loop bool, done func()) {
	return g.note(&g.dialled, &g.accepted, e, since)
}

func (g *loopGuard) accept(e ends) (loop bool, done func()) {
	loop, done = g.note(&g.accepted, &g.dialled, e, 0)
	if loop {
		g.show(e)
	}
	return loop, done
}

// show lets those know who dialled.
func (g *loopGuard) show(e ends) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.dialled[e]
	if !ok || n.loop {
		return
	}
	if n.loop = true; n.shown != nil {
		close(n.shown)
	}
	g.dialled[e] = n
}

// shown returns what is closed when a connection that was dialled turns out to be a loop.
func (g *loopGuard) shown(e ends) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.dialled[e]
	if n.shown == nil {
		if n.shown = make(chan struct{}); n.loop {
			close(n.shown)
		}
		g.dialled[e] = n
	}
	return n.shown
}

// isLoop reports whether a connection that was dialled has turned out to be a loop.
func (g *loopGuard) isLoop(e ends) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.dialled[e].loop
}

func (g *loopGuard) note(mine, others *map[ends]noted, e ends, since uint64) (loop bool, done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *mine == nil {
		*mine = map[ends]noted{}
	}
	g.clock++
	n := (*mine)[e]
	n.count, n.last = n.count+1, g.clock
	(*mine)[e] = n
	return (*others)[e].last > since, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		n := (*mine)[e]
		if n.count--; n.count == 0 {
			delete(*mine, e)
			return
		}
		(*mine)[e] = n
	}
}

// loopWatch watches one connection that was dialled. A nil one sees nothing.
type loopWatch struct {
	guard *loopGuard
	ends  ends
	done  func()
}

// isLoop reports whether it has turned out to be a loop.
func (w *loopWatch) isLoop() bool { return w != nil && w.guard.isLoop(w.ends) }

// endsOfConn returns the ends of a connection between two addresses; false if these do not identify
// it.
func endsOfConn(from, to net.Addr) (ends, bool) {
	f, ok := addrPort(from)
	t, too := addrPort(to)
	known := ok && too && f.Port() != 0 && t.Port() != 0 && !f.Addr().IsUnspecified() && !t.Addr().IsUnspecified()
	withoutZone := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().WithZone(""), a.Port()) }
	return ends{withoutZone(f), withoutZone(t)}, known
}

// addrPort returns the address of a TCP connection or listener. IPv4 is always IPv4, also
// on a socket for both.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
