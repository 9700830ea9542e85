package mitm

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// DialFunc opens a connection, as [net.Dialer.DialContext] does. addr is host:port. To
// be spliced the connection must be a plain *net.TCPConn.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// CheckedDial is a DialFunc that asks check about every address before it connects to
// it, after names were resolved, so that a name can't hide an address. An error of check
// refuses the address; the client is told 403 (Forbidden), [Flow.Err] has the error.
func CheckedDial(check func(ctx context.Context, addr netip.AddrPort) error) DialFunc {
	d := net.Dialer{ControlContext: func(ctx context.Context, _, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
		if err := check(ctx, addr); err != nil {
			return fmt.Errorf("%w: %w", ErrRejected, err)
		}
		return nil
	}}
	return d.DialContext
}

// dialOrigin opens a connection for r, with TLS where it needs that. Errors are *OpError.
func (p *Proxy) dialOrigin(ctx context.Context, r *route) (*origin, error) {
	nc, err := p.dialTCP(ctx, r.key.addr)
	if err == nil && p.isLoop(nc) {
		nc.Close()
		err = ErrLoop
	}
	if err != nil {
		return nil, &OpError{Op: "dial", Addr: r.key.addr, Err: err}
	}
	if r.key.tls {
		if nc, err = p.startTLS(ctx, nc, r.key.serverName); err != nil {
			return nil, &OpError{Op: "tls", Addr: r.key.addr, Err: err}
		}
	}
	return &origin{s: newStream(nc), key: r.key}, nil
}

// defaultDialer tries IPv6 and IPv4 in parallel (RFC 8305) where a name has both.
var defaultDialer net.Dialer

func (p *Proxy) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := withTimeout(ctx, p.dialTimeout())
	defer cancel()
	dial := p.Dial
	if dial == nil {
		dial = defaultDialer.DialContext
	}
	return dial(ctx, "tcp", addr)
}

// startTLS is the client side of a handshake; nc is closed if it fails.
func (p *Proxy) startTLS(ctx context.Context, nc net.Conn, serverName string) (net.Conn, error) {
	ctx, cancel := withTimeout(ctx, p.tlsTimeout())
	defer cancel()
	config := p.originTLS().Clone() // shares the session cache and the roots
	if config.ServerName == "" {
		config.ServerName = serverName
	}
	config.NextProtos = []string{"http/1.1"}
	c := tls.Client(nc, config)
	if err := c.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// withTimeout is context.WithTimeout for which 0 or less means no limit.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}

// isLoop says whether nc ends at one of the proxy's own listeners: at its address, or,
// where it listens on all addresses, at its port of this host.
func (p *Proxy) isLoop(nc net.Conn) bool {
	to, ok := addrPort(nc.RemoteAddr())
	if !ok {
		return false
	}
	from, _ := addrPort(nc.LocalAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.listeners {
		at, ok := addrPort(l.Addr())
		if ok && at.Port() == to.Port() && (at.Addr() == to.Addr() || at.Addr().IsUnspecified() && from.Addr() == to.Addr()) {
			return true
		}
	}
	return false
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), ap.IsValid()
}
