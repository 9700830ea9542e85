package mitm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Proxy stands between clients and origin servers. The zero value is an explicit HTTP and
// SOCKS5 proxy that forwards and tunnels everything, for everybody who can reach it.
//
// A Proxy must not be copied, and its fields must not be changed once a method was called.
// It can serve several listeners, and its methods may be called by several goroutines at
// once. After Shutdown or Close it can't be used again.
type Proxy struct {
	// Mode finds the destination of each connection. Nil: Explicit{}.
	Mode Mode
	// Hooks see and change what passes, see [Hook]. The first is the outermost.
	Hooks []Hook
	// Transport, if not nil, gets responses in place of the built-in engine: it is what HTTPHooks
	// find at the end of the chain, and routes by req.URL. It is not used for tunnels, or where a
	// [Destination.Handler] answers. Nothing is dialled before a tunnel needs it, see
	// [Destination.DialLate]. Dial, OriginTLS, the timeouts for origins, field order and the guard
	// against loops do not apply to it. An http.Transport needs DisableCompression, or it asks for
	// gzip by itself.
	Transport http.RoundTripper
	// Dial opens connections to origin servers. Nil: a net.Dialer. See [CheckedDial].
	Dial DialFunc
	// CA issues the certificates that are shown to clients whose TLS is terminated, so that hooks
	// see what is inside. Nil: TLS is tunnelled, never terminated, except with ClientTLS. A client
	// that resumes an earlier session with the origin and sends early data in it (RFC 8446, section
	// 4.2.10) is refused by an alert, which [Flow.Err] reports; browsers retry without early data.
	CA *CA
	// ClientTLS is used towards clients whose TLS is terminated. Where it has a certificate, of
	// GetCertificate or of Certificates, that fits the ClientHello, that is shown in place of one
	// by CA. NextProtos and GetConfigForClient are not used: clients get the protocol that the
	// origin chose. With SessionTicketsDisabled no session is resumed. Nil, and a MinVersion of 0,
	// mean TLS 1.2 or newer. It is copied.
	ClientTLS *tls.Config
	// OriginTLS is used towards https origins. Nil verifies against the system's
	// roots and speaks TLS 1.2 or newer. Unless InsecureSkipVerify is set, chains with RSA keys
	// of less than 2048 bits are rejected. It is copied; an empty ServerName is filled in and
	// NextProtos replaced. Sessions are resumed unless SessionTicketsDisabled is set. With
	// Renegotiation set, an idle connection of TLS 1.2 keeps its buffer. See [Destination] for
	// another one for a single host.
	OriginTLS *tls.Config
	// StartTLS, if not nil, does the handshake with origins in place of crypto/tls: over nc, with
	// the ServerName, the NextProtos and all else of config, for c, whose RawClientHello it may
	// want to imitate. It returns the connection, and the protocol that was negotiated ("" if
	// none); with an error nc is closed. ctx ends after TLSTimeout.
	StartTLS func(ctx context.Context, c *Conn, nc net.Conn, config *tls.Config) (conn net.Conn, protocol string, err error)
	// KeyLogWriter, if not nil, gets the secrets of all TLS connections, of clients and to
	// origins, in the format of SSLKEYLOGFILE, with which others can read the traffic. A
	// KeyLogWriter of ClientTLS or OriginTLS comes first.
	KeyLogWriter io.Writer
	// TunnelPinned is how long the proxy tunnels, instead of intercepting, connections of a client
	// to a server name after that client has refused our certificate for the name (see
	// [ErrCertificateRefused]), as clients with pinned certificates do. A ConnHook that answers
	// Intercept or Reject takes precedence, and so does [RefuseUnread]. 0 or less: never.
	TunnelPinned time.Duration
	// Via is the name under which the proxy adds itself to the Via field of messages
	// (RFC 9110, section 7.6.3); a request that has it already is a loop and refused. Empty:
	// no Via is written, and none is looked for.
	Via string
	// Logger gets records of panics in hooks, modes and Authenticate and of errors that end Serve
	// (level error), and of temporary failures to accept and [CA.Warnings] (level warn). Exchanges
	// are not logged: see [DoneHook]. Nil: slog.Default().
	Logger *slog.Logger

	// HeadTimeout is how long a client may take from the first byte of a request to the end
	// of its head, and from connecting to its first byte; it also bounds what a Mode reads
	// and writes. On a connection with a destination of its own that may speak anything,
	// the wait for the first byte is TunnelTimeout's. 0: 30 s. For this and all other
	// timeouts, a negative value means no limit.
	HeadTimeout time.Duration
	// DialTimeout bounds connecting to an origin server, name resolution included. 0: 15 s.
	DialTimeout time.Duration
	// TLSTimeout bounds a TLS handshake, and the wait for the rest of a ClientHello. 0: 10 s.
	TLSTimeout time.Duration
	// ResponseTimeout is how long an origin server may take from the end of the request
	// to the head of its response, and between two interim responses. 0: 5 min.
	ResponseTimeout time.Duration
	// ContentTimeout is how long content may stall. While content moves in both directions at once,
	// it is stalled only if neither moves. The same limit applies to content of a request that is
	// still being sent after its response. 0: 5 min.
	ContentTimeout time.Duration
	// IdleTimeout is how long a kept-alive connection, of a client or to an origin, may wait
	// for its next request. 0: 2 min.
	IdleTimeout time.Duration
	// TunnelTimeout ends a tunnel in which no byte has moved in either direction for that long;
	// this includes one whose receiver has stopped reading. 0: 15 min.
	TunnelTimeout time.Duration

	// MaxRequestLine is the longest request line in bytes, longer ones are answered with
	// 414 (URI Too Long). 0 or less: 16 KiB.
	MaxRequestLine int
	// MaxHeaderBytes bounds the head of a request, of a response, and a trailer section.
	// Larger requests are answered with 431 (Request Header Fields Too Large), larger
	// responses become 502 (Bad Gateway). 0 or less: 128 KiB.
	MaxHeaderBytes int
	// MaxHeaderFields bounds the number of field lines, with the same answers. 0 or less: 256.
	MaxHeaderFields int
	// MaxConns bounds the client connections of each listener: while it is reached, none
	// is accepted. 0 or less: no limit.
	MaxConns int

	start        sync.Once
	failed       error // of start
	limits       limits
	sorted       *hooks
	dialer       dialer
	tls          *clientTLS
	choices      choices
	certificates http.Handler
	http2        http2Origins
	distrusts    distrusts
	ctx          context.Context // ends with Close
	cancel       context.CancelCauseFunc
	pool         pool
	guard        loopGuard
	flowIDs      atomic.Uint64
	closing      atomic.Bool

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	clients   map[served]struct{}
	active    sync.WaitGroup // a count for every client
}

// served is a connection as the proxy keeps track of it.
type served interface{ closeIfIdle() }

// init prepares p for its first connection.
func (p *Proxy) init() error {
	p.start.Do(func() {
		p.ctx, p.cancel = context.WithCancelCause(context.Background())
		p.limits = p.defaultLimits()
		p.pool.keep = p.limits.idleTime
		p.http2.start(&p.limits, &p.choices)
		p.certificates = certificatePages(p.CA)
		p.dialer = dialer{
			dial: p.Dial, timeout: p.limits.dialTime, handshake: p.limits.tlsTime, head: p.limits.head,
			config: p.defaultOriginTLS(), mayLoop: p.mayLoop, guard: &p.guard,
			startTLS: p.StartTLS, panicked: p.panicked,
		}
		p.tls = newClientTLS(p.ClientTLS, p.KeyLogWriter)
		p.distrusts.life = p.TunnelPinned
		if p.Dial == nil {
			p.dialer.dial = socketDialer{}.dial
		}
		p.listeners, p.clients = map[net.Listener]struct{}{}, map[served]struct{}{}
		p.warnOfCA()
		p.failed = p.check()
	})
	return p.failed
}

// warnOfCA logs what clients will not like about the CA.
func (p *Proxy) warnOfCA() {
	if p.CA == nil {
		return
	}
	for _, warning := range p.CA.Warnings() {
		p.logger().Warn("mitm: CA", "warning", warning)
	}
}

// check is what can be told before the first connection. It asks for the hooks on the way.
func (p *Proxy) check() (err error) {
	if p.sorted, err = p.sortHooks(); err != nil {
		return err
	}
	if p.Via != "" && !isToken(p.Via) && !validAuthority([]byte(p.Via)) {
		return fmt.Errorf("mitm: Via %q is neither a token nor a host (RFC 9110, section 7.6.3)", p.Via)
	}
	if max(p.MaxRequestLine, p.MaxHeaderBytes) > maxHead {
		return fmt.Errorf("mitm: MaxRequestLine or MaxHeaderBytes is more than %d", maxHead)
	}
	if m, ok := p.mode().(modeChecker); ok {
		err = m.check()
	}
	return err
}

// Check reports why [Proxy.Serve] would fail before it accepts a connection: an invalid hook, a
// Mode that is incomplete or does not work on this system, a Via that is no name, a size that is
// too large. It returns nil if there is no such reason. It does not look at listeners, certificates
// of origins or anything else that only a connection shows. As after any other method, the fields
// of p must not be changed afterwards.
func (p *Proxy) Check() error { return p.init() }

// ListenAndServe listens on the TCP address addr, host:port (an empty host is all addresses), and
// calls [Proxy.Serve]. If Mode has a method Listen, as [Transparent.Listen], that makes the
// listener. As in Serve, the error is also in [Proxy.Logger].
func (p *Proxy) ListenAndServe(addr string) error {
	if err := p.init(); err != nil {
		return p.notServing(err)
	}
	listen := func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	if m, ok := p.mode().(modeListener); ok {
		listen = m.Listen
	}
	l, err := listen(addr)
	if err != nil {
		return p.notServing(err)
	}
	return p.Serve(l)
}

// Serve accepts connections on l, of any kind, until [Proxy.Shutdown] or [Proxy.Close]; then it
// returns [ErrProxyClosed]. It closes l and never returns nil. Any other error, of [Proxy.Check] or
// of l, is also logged to [Proxy.Logger], so that go p.Serve(l) does not fail unseen.
func (p *Proxy) Serve(l net.Listener) error {
	l = &onceListener{Listener: l}
	defer l.Close()
	if err := p.init(); err != nil {
		return p.notServing(err)
	}
	if !p.track(l) {
		return ErrProxyClosed
	}
	defer p.untrack(l)
	return p.notServing(p.accept(l))
}

// notServing logs why nothing is served any more, unless it was closed.
func (p *Proxy) notServing(err error) error {
	if err != ErrProxyClosed {
		p.logger().Error("mitm: serve", "err", err)
	}
	return err
}

// accept hands connections out. It survives a lack of descriptors.
func (p *Proxy) accept(l net.Listener) error {
	var free chan struct{} // nil: no limit
	if p.MaxConns > 0 {
		free = make(chan struct{}, p.MaxConns)
	}
	for delay := time.Duration(0); ; {
		if !p.acquire(free) {
			return ErrProxyClosed
		}
		nc, err := l.Accept()
		switch {
		case p.closing.Load():
			if err == nil {
				nc.Close()
			}
			return ErrProxyClosed
		case err != nil && !isTemporary(err):
			return &OpError{Op: "accept", Addr: addrOr(l.Addr()).String(), Err: err}
		case err != nil:
			leave(free)
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			p.logger().Warn("mitm: accept", "err", err, "retry", delay)
			p.wait(delay)
			continue
		}
		delay = 0
		c := p.newClient(p.ctx, nc)
		if c == nil {
			return ErrProxyClosed
		}
		c.conn.listener = l.Addr()
		c.guard()
		go func() {
			defer leave(free)
			c.serve()
		}()
	}
}

// acquire waits for a free place; it returns false if the proxy closes meanwhile.
func (p *Proxy) acquire(free chan struct{}) bool {
	if free == nil {
		return true
	}
	select {
	case free <- struct{}{}:
		return true
	case <-p.ctx.Done():
		return false
	}
}

func leave(free chan struct{}) {
	if free != nil {
		<-free
	}
}

func (p *Proxy) wait(d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
	}
}

// isTemporary reports whether a failed Accept may succeed later, as it does after EMFILE.
func isTemporary(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// ServeConn serves one connection and closes it, also if it returns an error. It returns when all
// goroutines of the connection have ended; when ctx ends, the connection is cut. nc may be any
// net.Conn, but must have what the Mode needs, such as addresses for [Transparent].
//
// The error is [ErrProxyClosed] if the proxy was closed before, one of [Proxy.Check], or nil: how a
// connection that was served has ended is reported to DoneHooks. Unlike Serve, ServeConn does not
// log the error. Shutdown and Close wait for the connection as for any other. MaxConns does not
// count it.
func (p *Proxy) ServeConn(ctx context.Context, nc net.Conn) error {
	if err := p.init(); err != nil {
		nc.Close()
		return err
	}
	c := p.newClient(ctx, nc)
	if c == nil {
		return ErrProxyClosed
	}
	defer onEnd(p.ctx, func() { c.cancel(ErrProxyClosed) })()
	c.guard()
	c.serve()
	return nil
}

// Shutdown stops accepting, closes idle connections and waits for exchanges, tunnels and hooks to
// end. A connection is idle while no request has begun on it since its last answer; that includes
// the time before its first byte and, in a tunnel that is looked into, before the first byte there.
// When ctx ends first, what is left is cut as by Close and ctx's error is returned. Like Close it
// must not be called by a hook.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.stopAccepting()
	p.mu.Lock()
	for c := range p.clients {
		p.active.Go(c.closeIfIdle) // over TLS this sends close_notify, which blocks if the client has stopped reading
	}
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.active.Wait()
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.Close()
	<-done
	return err
}

// Close closes the listeners and cuts every connection now: exchanges and tunnels end with
// [ErrProxyClosed] in [Flow.Err]. It waits for hooks, whose contexts it ends, and returns when no
// goroutine of the proxy is left; so a hook must not call it. It always returns nil.
func (p *Proxy) Close() error {
	p.stopAccepting()
	p.cancel(ErrProxyClosed)
	p.active.Wait()
	p.pool.close()
	p.http2.close()
	return nil
}

func (p *Proxy) stopAccepting() {
	p.init()
	p.closing.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.listeners {
		l.Close()
	}
}

func (p *Proxy) track(l net.Listener) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing.Load() {
		return false
	}
	p.listeners[l] = struct{}{}
	return true
}

func (p *Proxy) untrack(l net.Listener) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.listeners, l)
}

// onceListener can be closed by Serve and by Close.
type onceListener struct {
	net.Listener
	once sync.Once
	err  error
}

func (l *onceListener) Close() error {
	l.once.Do(func() { l.err = l.Listener.Close() })
	return l.err
}
