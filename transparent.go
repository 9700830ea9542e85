package mitm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
)

// Transparent is the mode for clients that know nothing of the proxy, because a firewall
// rule leads their connections to it. The destination is what the kernel says, and
// nothing the client writes can change it: Host fields, request targets and server names
// of TLS are names only.
//
// The zero value is for connections redirected by NAT on Linux: REDIRECT or DNAT of
// iptables, redirect or dnat of nftables. See [Transparent.Listen] for a fitting
// listener, and the README for rules.
type Transparent struct {
	// TPROXY is for rules that leave the destination as the local address of the
	// connection: TPROXY on Linux, divert-to on OpenBSD, ipfw fwd on FreeBSD.
	TPROXY bool
	// Lookup, if not nil, finds the original destination in place of the kernel. It is
	// called right after Accept, may be called by several goroutines at once and should
	// return [ErrNotRedirected] for a direct connection.
	Lookup func(nc net.Conn) (netip.AddrPort, error)
	// SpoofSource connects to the origin from the client's address (Linux). It needs
	// CAP_NET_ADMIN or CAP_NET_RAW and a route for the answers through this machine. Source
	// ports are from 10000 to 32767, which clients' systems rarely choose by themselves.
	SpoofSource bool
	// Mark, if not 0, is set on connections to the origin (SO_MARK, Linux), so that a
	// rule can tell them from redirected ones. It needs CAP_NET_ADMIN or CAP_NET_RAW.
	Mark int
}

// Destination implements Mode.
func (t Transparent) Destination(_ context.Context, c *Conn) (Destination, error) {
	dst, err := t.lookup(c)
	if err != nil {
		return Destination{}, err
	}
	d := Destination{Addr: dst.String(), Mark: t.Mark, redirected: true}
	if t.SpoofSource {
		client, _ := addrPort(c.RemoteAddr())
		d.Source = client.Addr()
	}
	return d, nil
}

func (t Transparent) lookup(c *Conn) (netip.AddrPort, error) {
	switch {
	case t.Lookup != nil:
		dst, err := t.Lookup(c.NetConn())
		if err == nil && !dst.IsValid() {
			err = ErrNotRedirected
		}
		return netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port()), err
	case !t.TPROXY:
		return originalDst(c.NetConn())
	}
	dst, ok := addrPort(c.LocalAddr())
	if !ok || isDirect(dst, c.listener) {
		return netip.AddrPort{}, ErrNotRedirected
	}
	return dst, nil
}

// isDirect reports whether a connection whose local address is dst came to the listener
// itself: to its port, at an address of this machine.
func isDirect(dst netip.AddrPort, listener net.Addr) bool {
	at, ok := addrPort(listener)
	if !ok || at.Port() != dst.Port() {
		return false
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, a := range own {
		if p, ok := a.(*net.IPNet); ok && isAddr(p.IP, dst.Addr()) {
			return true
		}
	}
	return dst.Addr().IsLoopback()
}

func isAddr(ip net.IP, addr netip.Addr) bool {
	own, ok := netip.AddrFromSlice(ip)
	return ok && own.Unmap() == addr.WithZone("")
}

// Listen returns a listener that fits the mode: on all addresses if addr has no host (a
// redirect leads to the address of whichever interface a packet came in by), without
// Multipath TCP, of which the kernel does not tell the original destination, and with
// IP_TRANSPARENT for TPROXY, which needs CAP_NET_ADMIN or CAP_NET_RAW.
func (t Transparent) Listen(addr string) (net.Listener, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	if t.TPROXY {
		lc.Control = transparentSocket
	}
	return lc.Listen(context.Background(), "tcp", addr)
}

// check implements modeChecker.
func (t Transparent) check() error {
	if t.Mark < 0 || uint64(t.Mark) > 1<<32-1 {
		return fmt.Errorf("mitm: Transparent.Mark %d is no 32-bit number", t.Mark)
	}
	byNAT := t.Lookup == nil && !t.TPROXY
	if byNAT || t.SpoofSource || t.Mark != 0 {
		if err := redirectSupported(); err != nil {
			return fmt.Errorf("mitm: %w", err)
		}
	}
	return nil
}
