package mitm

import (
	"net"
	"net/netip"
	"sync"
)

// loopGuard notices connections that the proxy makes to itself without knowing: a
// firewall rule that does not exclude the proxy's own traffic leads what it dials back to
// it. Such a connection is dialled and accepted with the same two ends: the source
// address of the one is the client address of the other, and both have the same
// destination. A local client may happen to use the same source port as one of our connections to
// the same destination, so connections accepted before we began to dial are ignored.
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
	return g.note(&g.accepted, &g.dialled, e, 0)
}

func (g *loopGuard) note(mine, others *map[ends]noted, e ends, since uint64) (loop bool, done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *mine == nil {
		*mine = map[ends]noted{}
	}
	g.clock++
	(*mine)[e] = noted{(*mine)[e].count + 1, g.clock}
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
