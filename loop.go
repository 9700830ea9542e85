package mitm

import (
	"net"
	"net/netip"
	"syscall"
)

// This file looks for loops, with what guard.go knows.

// guard finds out whether it is the proxy itself that has connected.
func (c *client) guard() {
	if e, ok := endsOfConn(c.s.nc.RemoteAddr(), c.s.nc.LocalAddr()); ok {
		c.loop, c.over = c.p.guard.accept(e)
	}
}

// refuseLoop resets a connection of the proxy to itself.
func (c *client) refuseLoop() {
	c.s.reset()
	flow, addr := c.newFlow(), c.s.nc.LocalAddr().String()
	if flow != nil {
		flow.Conn = c.newConn(Destination{Addr: addr})
	}
	c.finish(flow, &OpError{Op: "mode", Addr: addr, Err: ErrLoop})
}

// mayLoop reports whether nc looks as if it ended at one of the proxy's own listeners: at its address,
// or, where it listens on all addresses, at its port of this host.
func (p *Proxy) mayLoop(nc net.Conn) bool {
	to, ok := addrPort(nc.RemoteAddr())
	if !ok {
		return false
	}
	from, _ := addrPort(nc.LocalAddr())
	here := from.Addr() == to.Addr() || to.Addr().IsLoopback() // 127.0.0.2 is reached from 127.0.0.1
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.listeners {
		at, ok := addrPort(l.Addr())
		if !ok || at.Port() != to.Port() {
			continue
		}
		if at.Addr() == to.Addr() || at.Addr().IsUnspecified() && here && acceptsFamily(l, at, to) {
			return sameNetwork(nc, l)
		}
	}
	return false
}

// acceptsFamily reports whether l, on all addresses of a family, may accept a connection to an address
// of that of to. One on those of IPv6 may be for IPv4 too.
func acceptsFamily(l net.Listener, at, to netip.AddrPort) bool {
	return at.Addr().Is4() == to.Addr().Is4() || at.Addr().Is6() && !isIPv6Only(rawListener(l))
}

// rawListener returns the socket of l; nil if it is none of package net's.
func rawListener(l net.Listener) syscall.RawConn {
	if once, ok := l.(*onceListener); ok {
		l = once.Listener
	}
	if tcp, ok := l.(*net.TCPListener); ok {
		raw, _ := tcp.SyscallConn()
		return raw
	}
	return nil
}

// sameNetwork reports whether nc and l may be of one network, as far as the system tells.
func sameNetwork(nc net.Conn, l net.Listener) bool {
	mine, yours := networkOf(rawConn(nc)), networkOf(rawListener(l))
	return mine == yours || mine == 0 || yours == 0
}
