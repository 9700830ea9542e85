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

// dialer opens origin connections.
type dialer struct {
	dial      DialFunc
	timeout   time.Duration
	handshake time.Duration
	config    *tls.Config         // shared by all connections
	isLoop    func(net.Conn) bool // says whether a connection ends at the proxy itself
}

// open opens a connection, with TLS where key says so. Errors are *OpError.
func (d *dialer) open(ctx context.Context, key originKey) (*origin, error) {
	nc, err := d.connect(ctx, key.addr)
	if err == nil && d.isLoop(nc) {
		nc.Close()
		err = ErrLoop
	}
	if err != nil {
		return nil, &OpError{Op: "dial", Addr: key.addr, Err: err}
	}
	if key.tls {
		if nc, err = d.startTLS(ctx, nc, key.serverName); err != nil {
			return nil, &OpError{Op: "tls", Addr: key.addr, Err: err}
		}
	}
	return &origin{s: newStream(nc), key: key}, nil
}

func (d *dialer) connect(ctx context.Context, addr string) (net.Conn, error) {
	ctx, cancel := withTimeout(ctx, d.timeout)
	defer cancel()
	return d.dial(ctx, "tcp", addr)
}

// startTLS is the client side of a handshake; nc is closed if it fails.
func (d *dialer) startTLS(ctx context.Context, nc net.Conn, serverName string) (net.Conn, error) {
	ctx, cancel := withTimeout(ctx, d.handshake)
	defer cancel()
	config := d.config.Clone() // shares the session cache and the roots
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
