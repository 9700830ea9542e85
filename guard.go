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
// destination.
type loopGuard struct {
	mu       sync.Mutex
	dialled  map[ends]int
	accepted map[ends]int
}

// ends are who connects and where to, before any rule changed it.
type ends struct{ from, to netip.AddrPort }

// dial notes a connection made by the proxy, accept one made to it. Both say whether it is
// a loop; whichever comes second knows. done is to be called when the connection is over.
func (g *loopGuard) dial(e ends) (loop bool, done func()) {
	return g.note(&g.dialled, &g.accepted, e)
}

func (g *loopGuard) accept(e ends) (loop bool, done func()) {
	return g.note(&g.accepted, &g.dialled, e)
}

func (g *loopGuard) note(mine, others *map[ends]int, e ends) (loop bool, done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *mine == nil {
		*mine = map[ends]int{}
	}
	(*mine)[e]++
	return (*others)[e] > 0, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if (*mine)[e]--; (*mine)[e] <= 0 {
			delete(*mine, e)
		}
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
