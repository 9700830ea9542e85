package mitm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"
)

// A client is idle between requests, when it can be closed without loss. It is silent where nothing
// was asked of us yet, but it may rely on a server to speak first: a Shutdown closes it as it does
// an idle one, a Close resets it.
const (
	clientActive = iota
	clientIdle
	clientSilent
	clientClosed
)

// client is one accepted connection.
type client struct {
	p      *Proxy
	raw    *stream              // as it was accepted
	s      *stream              // raw, or what is inside TLS
	tls    *tls.ConnectionState // nil: s is raw
	conn   *Conn                // as the mode gets it, without a destination
	ctx    context.Context
	cancel context.CancelCauseFunc
	state  atomic.Int32
	isCut  chan struct{}               // closed when cut is through
	loop   bool                        // it is the proxy itself that has connected
	over   func()                      // ends the watch for loops; nil: there is none
	drain  atomic.Pointer[http.Server] // of a client that speaks HTTP/2

	hasEnded bool // it sent nothing to the end of what firstBytes read
	moved    bool // a relay moved bytes

	fixed  *route // the connection's own destination; nil: each request names one
	nest   *nest  // what is served is inside of that; nil: it is inside of none
	routes routes
	watch  watch
	remote string // see remoteAddr
	host   []byte // scratch for a Host field

	pages ownPages
	// authenticate sees the credentials of requests that name a destination; nil: nobody does.
	authenticate func(ctx context.Context, credentials string) error

	origins origins
}

// newClient registers a connection. It returns nil, with the connection closed, if the
// proxy is closing.
func (p *Proxy) newClient(ctx context.Context, nc net.Conn) *client {
	s := newStream(nc)
	c := &client{p: p, raw: s, s: s, conn: &Conn{s: s}, isCut: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.watch.s, c.watch.gone = c.s, c.leave
	c.origins.pool, c.origins.dialer = &p.pool, &p.dialer
	if !p.register(c) {
		nc.Close() // which may take its time
		c.cancel(nil)
		return nil
	}
	return c
}

// register makes c one that Close waits for; false if it comes too late.
func (p *Proxy) register(c *client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing.Load() {
		return false
	}
	p.active.Add(1)
	p.clients[c] = struct{}{}
	return true
}

// serve is the goroutine of a connection.
func (c *client) serve() { c.run(c.serveMode) }

// run serves the connection by f and closes it. When it returns, everything that was started
// for the connection has ended.
func (c *client) run(f func()) {
	defer c.forget()
	stop := context.AfterFunc(c.ctx, c.cut)
	defer func() {
		if !stop() {
			<-c.isCut
		}
		c.cancel(nil)
		if c.over != nil {
			c.over()
		}
		c.routes.close()
		if c.fixed != nil {
			c.fixed.closeBound()
		}
		c.s.drop()
		c.raw.drop()
		c.s.close()
	}()
	f()
}

// serveMode serves the connection as the mode says.
func (c *client) serveMode() {
	if c.loop {
		c.refuseLoop()
		return
	}
	if err := c.handshake(); err != nil {
		c.s.reset()
		if err != io.EOF { // a client that never said anything
			c.finish(c.newFlow(), &OpError{Op: "client tls", Err: err})
		}
		return
	}
	if c.eachNamesItsOwn() {
		c.serveNamed()
	}
}

// handshake completes the handshake of a TLS connection of the embedder's. Interrupting a Read in
// the middle of it would break the connection for good.
func (c *client) handshake() (err error) {
	nc, ok := c.s.nc.(*tls.Conn)
	if !ok {
		return nil
	}
	defer c.recovered("tls", &err)
	c.s.readWithin(c.p.limits.tlsTime)
	c.s.writeWithin(c.p.limits.tlsTime)
	if !c.rest(clientIdle) {
		return io.EOF
	}
	err = nc.HandshakeContext(c.ctx)
	if !c.wake() {
		err = io.EOF
	}
	return err
}

// eachNamesItsOwn asks the mode for the destination and, if there is one, serves the connection. It
// returns true if each request names its own; the caller then serves it, so that this larger frame is
// not held for as long as a tunnel lasts.
func (c *client) eachNamesItsOwn() bool {
	d, err := c.destination()
	switch {
	case err == io.EOF, err == errNothingAsked: // a client that never said anything
	case err != nil:
		c.s.reset()
		c.finish(c.newFlow(), c.blame(&OpError{Op: "mode", Err: err}))
	case d.Addr == "":
		c.authenticate, c.pages = d.authenticate, d.pages
		return true
	default:
		c.pages = d.pages
		c.serveDestination(d)
	}
	return false
}

func (c *client) forget() {
	c.p.mu.Lock()
	delete(c.p.clients, c)
	c.p.mu.Unlock()
	c.p.active.Done()
}

// errNothingAsked ends a connection that was closed while it was idle.
var errNothingAsked = errors.New("closed before anything was asked")

// destination asks the mode, which has as long as a client's first request may take. Until
// it knows, nothing is lost if the connection is closed.
func (c *client) destination() (d Destination, err error) {
	defer c.recovered("mode", &err)
	c.s.readWithin(c.p.limits.headTime)
	c.s.writeWithin(c.p.limits.headTime)
	if !c.rest(clientIdle) {
		return d, errNothingAsked
	}
	d, err = c.p.mode().Destination(c.ctx, c.conn)
	if !c.wake() {
		err = errNothingAsked
	}
	return d, err
}

// rest makes the connection idle or silent, in which states a Shutdown may close it; it returns
// false if that is the case already. wake makes it active again, unless it was closed meanwhile.
func (c *client) rest(as int32) bool {
	c.state.Store(as)
	return !c.p.closing.Load() || !c.state.CompareAndSwap(as, clientClosed)
}

func (c *client) wake() bool {
	return c.state.CompareAndSwap(clientIdle, clientActive) || c.state.CompareAndSwap(clientSilent, clientActive)
}

// await reads once. Until the first byte is there, the connection is silent, unless it is idle.
// The error is errNothingAsked if it was closed meanwhile.
func (c *client) await(limit int) error {
	if len(c.s.buffered()) > 0 || c.state.Load() != clientActive {
		return c.s.fill(limit)
	}
	if !c.rest(clientSilent) {
		return errNothingAsked
	}
	err := c.s.fill(limit)
	if !c.wake() {
		return errNothingAsked
	}
	return err
}

// ended returns the error for the flow of a tunnel to addr that itself ended in order: nil, unless
// the connection was cut for another reason than that the client has left.
func (c *client) ended(addr string) error {
	if cause := context.Cause(c.ctx); cause != nil && cause != ErrClientGone {
		return &OpError{Op: "relay", Addr: addr, Err: cause}
	}
	return nil
}

// blame returns err, the error of a step. If the connection was cut, the reason for that takes the
// place of the error that it caused.
func (c *client) blame(err error) error {
	if err == nil || c.ctx.Err() == nil {
		return err
	}
	return because(err, context.Cause(c.ctx))
}

// because returns err with another cause.
func because(err, cause error) error {
	if op := (*OpError)(nil); errors.As(err, &op) {
		return &OpError{Op: op.Op, Addr: op.Addr, Err: cause}
	}
	return cause
}

// recovered turns a panic of the embedder's code into an error and a log record. It is
// to be deferred.
func (c *client) recovered(op string, err *error) {
	if v := recover(); v != nil {
		*err = c.panicked(op, v)
	}
}

// errPanic marks what is not for the client's eyes.
var errPanic = errors.New("panic")

func (c *client) panicked(op string, v any) error { return c.p.panicked(op, v) }

func (p *Proxy) panicked(op string, v any) error {
	p.logger().Error("mitm: panic in "+op, "panic", v, "stack", string(debug.Stack()))
	return fmt.Errorf("%w: %v", errPanic, v)
}

// remoteAddr returns the client's address, made into text once.
func (c *client) remoteAddr() string {
	if a := c.s.nc.RemoteAddr(); c.remote == "" && a != nil {
		c.remote = a.String()
	}
	return c.remote
}

// cut ends everything that is done for the client. What was under way ends in a reset,
// so that it can't look complete.
func (c *client) cut() {
	defer close(c.isCut)
	if c.state.Swap(clientClosed) == clientIdle {
		const farewell = 100 * time.Millisecond // for a close_notify that may not fit
		late := after(farewell, c.raw.reset)
		c.s.close()
		late.stop()
	} else {
		c.raw.reset()
	}
	c.origins.cut(context.Cause(c.ctx))
}

// leave ends everything because the client is gone.
func (c *client) leave() { c.cancel(ErrClientGone) }

// closeIfIdle closes the connection if nothing is under way on it. A client that speaks HTTP/2
// is told not to send more (RFC 9113, section 6.8).
func (c *client) closeIfIdle() {
	if c.state.CompareAndSwap(clientIdle, clientClosed) || c.state.CompareAndSwap(clientSilent, clientClosed) {
		c.s.close()
	} else if server := c.drain.Load(); server != nil {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		server.Shutdown(over) // does not wait
	}
}

// decide asks the ConnHooks about the destination of conn, which they may change.
func (c *client) decide(flow *Flow, conn *Conn) *route {
	r := &route{conn: conn}
	flow.goes(r)
	if own := c.ownRoute(conn); own != nil {
		return own
	}
	r.action, r.err = c.askHooks(flow, conn)
	if r.err != nil {
		r.action = Reject
	}
	if r.action == Reject {
		err := ErrRejected
		if r.err != nil {
			err = fmt.Errorf("%w: %w", ErrRejected, r.err)
		}
		r.err = &OpError{Op: "hook", Addr: conn.Destination.Addr, Err: err}
	}
	if r.handler = conn.Destination.Handler; r.handler != nil && r.action == Tunnel {
		r.action = Intercept // there is nobody to relay to
	}
	r.host = conn.Destination.Host
	r.key = conn.key()
	flow.goes(c.p.identify(r))
	return r
}

// newConn returns what hooks get to see of the connection and d.
func (c *client) newConn(d Destination) *Conn { return &Conn{Destination: d, s: c.raw, nest: c.nest} }

// key is what makes connections to the destination of c interchangeable.
func (c *Conn) key() originKey {
	d := c.Destination
	key := originKey{addr: d.Addr, tls: d.TLS, options: socketOptions{d.Source, d.Mark}, nest: c.nest}
	if d.TLS {
		key.serverName, key.alpn, key.config = c.originName(), protoHTTP1, d.OriginTLS
	}
	return key
}

// originName is the name that the origin's certificate must have: the one that was set for
// it, that the client asked for, or that of the address.
func (c *Conn) originName() string {
	name := c.Destination.Host
	if name == "" && c.ServerName != "" {
		return c.ServerName
	}
	if name == "" {
		name = c.Destination.Addr
	}
	if host, _, err := net.SplitHostPort(name); err == nil {
		name = host
	}
	return strings.TrimSuffix(name, ".")
}

func (c *client) askHooks(flow *Flow, conn *Conn) (action Action, err error) {
	defer c.recovered("hook", &err)
	hooks := c.p.sorted.conn
	if len(hooks) == 0 {
		return Default, nil
	}
	ctx, named := withFlow(c.ctx, flow), conn.Destination.named
	for _, hook := range hooks {
		flow.goes(c.p.identify(&route{conn: conn, key: conn.key(), handler: conn.Destination.Handler}))
		action, err = hook.HookConn(ctx, conn)
		conn.Destination.named = named // which the hook may have lost with all of the Destination
		if err != nil || action != Default {
			break
		}
	}
	return action, err
}

// newFlow returns a flow if anybody wants to see it.
func (c *client) newFlow() *Flow {
	h := c.p.sorted
	if len(h.conn) == 0 && len(h.done) == 0 && h.http == nil {
		return nil
	}
	return &Flow{ID: c.p.flowIDs.Add(1), Start: time.Now(), Conn: c.conn}
}

// finish tells the DoneHooks, once, that flow is over.
func (c *client) finish(flow *Flow, err error) {
	if flow == nil {
		return
	}
	flow.End, flow.Err = time.Now(), err
	for _, hook := range c.p.sorted.done {
		var err error
		func() {
			defer c.recovered("hook", &err)
			hook.HookDone(flow)
		}()
	}
}

// dialTunnel dials while the client waits. One that leaves ends the dial; one that only
// has nothing more to say does not. The deep stack that dialling needs is that of a goroutine
// which ends with it, and not kept for as long as the tunnel.
func (c *client) dialTunnel(r *route) (o *origin, err error) {
	c.watch.halfClose = true
	c.watch.arm()
	dialled := make(chan struct{})
	go func() {
		defer close(dialled)
		o, err = c.origins.dial(c.ctx, r.key, r.conn)
	}()
	<-dialled
	c.watch.disarm()
	c.watch.halfClose = false
	return o, c.blame(err)
}

// relay joins the client and o until both are through.
func (c *client) relay(o *origin, flow *Flow) error {
	defer c.origins.detach(o)
	var up, down atomic.Int64
	r := relay{near: c.s, far: o.s, idle: c.p.limits.tunnelTime, up: &up, down: &down}
	if flow != nil {
		flow.Tunnel = true
		r.up, r.down = &flow.up, &flow.down
	}
	err := r.run()
	c.moved = r.up.Load()+r.down.Load() > 0
	if o.s.isLoop() {
		err = ErrLoop
	}
	if err != nil {
		return c.blame(&OpError{Op: "relay", Addr: o.key.addr, Err: err})
	}
	return nil
}

// ownRoute returns a route to the proxy's own pages if that is where conn leads, else nil.
func (c *client) ownRoute(conn *Conn) *route {
	own := c.pages
	host, _, err := net.SplitHostPort(conn.Destination.Addr)
	if err != nil || own.host == "" || conn.nest != nil || !equalFold([]byte(host), own.host) {
		return nil
	}
	handler := own.handler
	if handler == nil {
		handler = c.p.certificates
	}
	return &route{conn: conn, action: Intercept, host: conn.Destination.Host, key: conn.key(), handler: handler, pages: true}
}
