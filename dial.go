package mitm

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// DialFunc opens a connection, as net.Dialer.DialContext does. network is "tcp", addr host:port;
// ctx ends after [Proxy.DialTimeout] or with the client.
//
// To be spliced the connection must be a plain *net.TCPConn. One of another type needs no more than
// the methods of net.Conn, and its deadlines need not work. The end of one direction of a tunnel
// can be passed on to it alone if it has a method CloseWrite or, unless it is TLS, a method NetConn
// that returns a connection with one.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// CheckedDial is a DialFunc that asks check about every address before it connects to it, after
// names were resolved, so that a name can't hide an address. An error of check refuses the address
// with [ErrRejected]; other addresses of the name are still tried. check may be called by several
// goroutines at once. An IPv4 address in IPv6 form is passed to it as IPv4. The unspecified
// addresses, 0.0.0.0 and [::], reach this machine, as 127.0.0.1 does.
func CheckedDial(check func(ctx context.Context, addr netip.AddrPort) error) DialFunc {
	return socketDialer{check}.dial
}

// socketDialer dials with a net.Dialer, which tries IPv6 and IPv4 in parallel (RFC 8305).
// It heeds socketOptions, and asks check, if there is one, about every address.
type socketDialer struct {
	check func(ctx context.Context, addr netip.AddrPort) error
}

// socketOptions are what a Destination demands of the socket, by way of a context.
type socketOptions struct {
	source netip.Addr
	mark   int
}

type socketOptionsKey struct{}

func (d socketDialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	options, _ := ctx.Value(socketOptionsKey{}).(socketOptions)
	var dialer net.Dialer
	if d.check != nil || options != (socketOptions{}) {
		dialer.ControlContext = func(ctx context.Context, _, address string, raw syscall.RawConn) error {
			return cmp.Or(d.ask(ctx, address), options.apply(raw))
		}
	}
	if options.source.IsValid() {
		return dialSpoofed(ctx, dialer, options.source, network, addr)
	}
	return dialer.DialContext(ctx, network, addr)
}

// Connections from a client's address have ports that the client's system does not choose
// by itself. With the same addresses and ports as one of the client's own connections they
// would be that one for the kernel's tables.
const firstSpoofedPort, lastSpoofedPort, spoofTries = 10000, 32767, 64

// dialSpoofed tries ports until it finds one that is free.
func dialSpoofed(ctx context.Context, dialer net.Dialer, source netip.Addr, network, addr string) (nc net.Conn, err error) {
	for range spoofTries {
		port := firstSpoofedPort + rand.IntN(lastSpoofedPort-firstSpoofedPort+1)
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, uint16(port)))
		nc, err = dialer.DialContext(ctx, network, addr)
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			break
		}
	}
	return nc, err
}

func (d socketDialer) ask(ctx context.Context, address string) error {
	if d.check == nil {
		return nil
	}
	addr, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if err := d.check(ctx, addr); err != nil {
		return fmt.Errorf("%w: %w", ErrRejected, err)
	}
	return nil
}

func (o socketOptions) apply(raw syscall.RawConn) error {
	if o.source.IsValid() {
		if err := spoofSocket(raw); err != nil {
			return err
		}
	}
	if o.mark != 0 {
		return markSocket(raw, o.mark)
	}
	return nil
}

// dialer opens origin connections.
type dialer struct {
	dial      DialFunc
	timeout   time.Duration
	handshake time.Duration
	head      headLimits
	config    *tls.Config // shared by all connections
	startTLS  startTLSFunc
	mayLoop   func(net.Conn) bool // reports whether a connection looks as if it ended at the proxy itself
	guard     *loopGuard
	panicked  func(op string, v any) error
}

// open opens a connection on behalf of c, with TLS where key says so. Errors are *OpError.
func (d *dialer) open(ctx context.Context, key originKey, c *Conn) (*origin, error) {
	if key.nest != nil {
		return d.openNested(ctx, key, c)
	}
	since := d.guard.now()
	nc, err := d.connect(ctx, key)
	if err != nil {
		return nil, &OpError{Op: "dial", Addr: key.addr, Err: err}
	}
	o := &origin{s: newStream(nc), key: key.socket()}
	if loop := d.watchLoop(ctx, o.s, since); loop {
		o.s.close()
		return nil, &OpError{Op: "dial", Addr: key.addr, Err: ErrLoop}
	}
	if key.tls {
		return d.secure(ctx, o, key, c)
	}
	return o, nil
}

func (d *dialer) connect(ctx context.Context, key originKey) (nc net.Conn, err error) {
	defer func() {
		if v := recover(); v != nil { // of the embedder's Dial
			err = d.panicked("dial", v)
		}
	}()
	ctx, cancel := withTimeout(ctx, d.timeout)
	defer cancel()
	if key.options != (socketOptions{}) {
		ctx = context.WithValue(ctx, socketOptionsKey{}, key.options)
	}
	if nc, err = d.dial(ctx, "tcp", key.addr); nc == nil && err == nil {
		err = errNoConn
	}
	if t, ok := nc.(*tls.Conn); ok && err == nil { // whose reads can't be interrupted before that
		if err = t.HandshakeContext(ctx); err != nil {
			nc.Close()
		}
	}
	return nc, err
}

// errNoConn is that of a Dial, or StartTLS, that returned neither a connection nor an error.
var errNoConn = errors.New("neither a connection nor an error")

// loopWait is how long to wait for the other end of a connection that looks like a loop. An accept
// takes next to no time.
const loopWait = 300 * time.Millisecond

// watchLoop reports whether s, dialled since then, ends at the proxy, and goes on watching for
// that. Equal addresses alone prove nothing: they may belong to another network, or to other
// sockets.
func (d *dialer) watchLoop(ctx context.Context, s *stream, since uint64) (loop bool) {
	e, ok := endsOfConn(s.nc.LocalAddr(), s.nc.RemoteAddr())
	if !ok {
		return false
	}
	loop, done := d.guard.dial(e, since)
	s.guard = &loopWatch{d.guard, e, done}
	if loop || !d.mayLoop(s.given()) {
		return loop
	}
	wait := time.NewTimer(loopWait)
	defer wait.Stop()
	select {
	case <-d.guard.shown(e):
		return true
	case <-wait.C:
	case <-ctx.Done():
	}
	return false
}

// withTimeout is context.WithTimeout for which 0 or less means no limit.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if d <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, d)
}
