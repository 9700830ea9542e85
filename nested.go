package mitm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// This file serves clients whose connection has another HTTP proxy as its destination: that of the
// connection itself, of SOCKS5 or of a CONNECT. That proxy gets what it would get without this one.
// What is inside a tunnel through it is served like what is inside any other tunnel.

// maxNests bounds how many proxies behind each other a client can use.
const maxNests = 8

// Errors of a CONNECT to another proxy.
var (
	errManyNests  = errors.New("too many proxies one behind the other")
	errNotTunnels = errors.New("the proxy there refuses the tunnel")
	errNoProxy    = errors.New("a CONNECT was answered with content (RFC 9110, section 9.3.6)")
)

// nest is a tunnel that a client has asked another proxy for. Connections through it are for
// that client alone: its credentials are in the head.
type nest struct {
	proxy *route // where that is
	addr  string // of the tunnel, in the form of requestLine.hostPort
	head  []byte // of the request
	depth int
}

// mayBeProxy reports whether r may lead to a proxy: it does not if the mode says that a server of HTTP
// is there, or if what is there has been replaced.
func (r *route) mayBeProxy() bool {
	return r.conn.Destination.Protocol != HTTP1 && r.handler == nil && r.host == ""
}

// isNested reports whether the request is for another proxy, the destination of the connection. In
// HTTP/2 all targets have the same form.
func (x *exchange) isNested() bool {
	return x.line.form == absoluteForm && x.client.fixed != nil && x.client.fixed.mayBeProxy()
}

// headFor returns the CONNECT for addr: as it came, unless a hook has changed the address.
func (n *nest) headFor(addr string) []byte {
	if addr == n.addr {
		return n.head
	}
	head := append([]byte(nil), "CONNECT "+addr+" HTTP/1.1\r\nHost: "+addr+"\r\n"...)
	for line := range bytes.SplitSeq(n.head[bytes.IndexByte(n.head, '\n')+1:], []byte("\n")) {
		if name, _, _ := bytes.Cut(line, []byte(":")); len(line) > 0 && !equalFold(name, "host") {
			head = append(append(head, line...), '\n')
		}
	}
	return head
}

// newNest returns what the request, a CONNECT, asks the proxy for.
func (x *exchange) newNest() *nest {
	n := &nest{proxy: x.client.fixed, addr: x.line.hostPort(), depth: 1}
	if outer := n.proxy.key.nest; outer != nil {
		n.depth = outer.depth + 1
	}
	w := x.requestRewrite()
	n.head = appendRequestLine(nil, x.line.method, x.line.target)
	n.head = w.appendTo(n.head)
	return n
}

// connectThrough serves a CONNECT that is for another proxy. The destination is that of the tunnel,
// and hooks are called about it. The other proxy is asked only if that needs a connection.
func (x *exchange) connectThrough() {
	c, addr := x.client, x.line.hostPort()
	conn := c.newConn(Destination{Addr: addr, named: nameOf(addr)})
	conn.nest = x.newNest()
	if conn.nest.depth > maxNests {
		x.refuse(http.StatusBadRequest, &OpError{Op: "read request", Addr: conn.nest.addr, Err: errManyNests})
		return
	}
	r := c.decide(x.flow, conn)
	if err := x.follow(r); err != nil {
		x.deny(err)
		return
	}
	if r.action != Tunnel && c.p.dialsLate(r) {
		x.establish(nil)
		return
	}
	if c.p.readsAll() && r.action != Tunnel {
		x.inner = r
		x.ask(conn.nest)
		x.hooked()
		return
	}
	x.askProxy(r)
}

// ask makes the request one to the other proxy, until that has made the tunnel.
func (x *routed) ask(n *nest) {
	if x.route = n.proxy; x.flow != nil {
		x.flow.VerifiedName = n.proxy.verified
	}
}

// askProxy sends the CONNECT to the other proxy, past hooks.
func (x *exchange) askProxy(r *route) {
	c, t, n := x.client, &x.trip, r.conn.nest
	c.startTrip(t, n.proxy, x.method)
	t.request.start(nil, framing{}, c.p.limits.contentTime)
	t.request.out = append(t.request.out, n.headFor(r.key.addr)...)
	t.bound, t.owner = x.control.connectionBound, x
	c.watch.arm()
	err := t.run(c.ctx)
	switch {
	case err != nil:
		x.control.close = true
		x.fail(err)
	case isTunnel(t.status.code, x.method):
		x.joinNest(r)
	default:
		x.closeRefused(t.status.code)
		x.passResponse()
	}
}

// closeRefused ends the connection with a response to a CONNECT that makes no tunnel, unless that
// response asks for credentials, which may take several requests on one connection. If something
// has followed the CONNECT, the connection ends all the same: that is no request (RFC 9931).
func (x *exchange) closeRefused(status int) {
	again := status == http.StatusProxyAuthRequired && len(x.client.s.buffered()) == 0
	x.control.close = x.control.close || !again
}

// joinNest passes on that the other proxy has made a tunnel, and makes one of the client's connection.
func (x *exchange) joinNest(r *route) {
	c, t := x.client, &x.trip
	c.watch.disarm()
	x.reply.start(c.s, framing{}, c.p.limits.contentTime)
	x.reply.out = x.appendResponseHead(x.reply.out, t, framing{}, false)
	if err := x.reply.flush(); err != nil {
		x.err = &OpError{Op: "send response", Err: err}
		t.abandon()
		return
	}
	x.answered(t.status.code)
	o, err := c.origins.inside(t.takeOrigin(), r)
	if x.err = err; err == nil {
		x.tunnel = x.connected(o)
	}
}

// inside makes o, on which another proxy has made a tunnel, a connection to where r leads.
func (os *origins) inside(o *origin, r *route) (*origin, error) {
	os.detach(o)
	o.s.endGuard() // what answers is no loop
	inner := &origin{s: o.s, key: r.key.socket()}
	return inner, os.attach(inner)
}

// tunnelTarget is the target of a CONNECT to another proxy, which hooks can refuse but not change.
func (h *hookedExchange) tunnelTarget(req *http.Request) (string, error) {
	n := h.inner.conn.nest
	if req.URL == nil || *req.URL != h.sent {
		return "", errHookTarget
	}
	_, head, _ := bytes.Cut(n.headFor(h.inner.key.addr), []byte(" "))
	target, _, _ := bytes.Cut(head, []byte(" "))
	return string(target), nil
}

// tunnelOrigin takes the connection on which another proxy has made the tunnel that res tells of. Content
// is what a server answers that is no proxy, as to any other method: it would be taken for a server that
// speaks first, and the requests behind it are for hooks.
func (h *hookedExchange) tunnelOrigin(res *http.Response) (*origin, error) {
	t := h.lastReturned()
	if _, own := res.Body.(upgraded); !own || t == nil || t.o == nil || !isTunnel(t.status.code, t.method) {
		return nil, &OpError{Op: "hook", Err: errNotTunnels}
	}
	if h.inner.action != Tunnel && h.client.p.readsAll() && (t.control.hasTE || t.control.length > 0) {
		return nil, &OpError{Op: "read response", Addr: t.route.key.addr, Err: errNoProxy}
	}
	res.Body = http.NoBody // it belongs to the tunnel now
	o, err := h.origins.inside(t.takeOrigin(), h.inner)
	t.request.done()
	return o, err
}

// passTunnel passes on that another proxy has made a tunnel.
func (h *hookedExchange) passTunnel(x *exchange, res *http.Response) error {
	w, err := h.responseRewrite(res)
	if err != nil {
		return err
	}
	reason, err := reasonOf(res)
	if err != nil {
		return err
	}
	o, err := h.tunnelOrigin(res)
	if err != nil {
		return err
	}
	x.client.watch.disarm()
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	x.reply.out = w.appendTo(appendStatusLine(x.reply.out, res.StatusCode, reason))
	if err := x.reply.flush(); err != nil {
		x.client.origins.close(o)
		x.err = &OpError{Op: "send response", Err: err}
		return nil
	}
	x.follow(h.inner)
	x.tunnel = x.connected(o)
	return nil
}

// enter records that what is served from now on is inside n; nil: inside a tunnel that is not one
// of another proxy. leave closes what was kept for the connection to the other proxy itself.
func (c *client) enter(n *nest) (leave func()) {
	c.nest = n
	if n == nil || c.fixed != n.proxy { // a stream of HTTP/2 is a connection of its own
		return func() {}
	}
	return n.proxy.closeBound
}

// openNested opens another connection through the proxy of key.nest, by the client's own request.
func (d *dialer) openNested(ctx context.Context, key originKey, c *Conn) (*origin, error) {
	n := key.nest
	o, err := d.open(ctx, n.proxy.key.for1(), n.proxy.conn)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, o.s.reset)
	err = d.askTunnel(o.s, n.headFor(key.addr))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		o.s.close()
		return nil, &OpError{Op: "dial", Addr: key.addr, Err: err}
	}
	o.s.endGuard() // what answers is no loop
	o = &origin{s: o.s, key: key.socket()}
	if key.tls {
		return d.secure(ctx, o, key, c)
	}
	return o, nil
}

// connectThrough finds out about a CONNECT for another proxy: as exchange.connectThrough does. The other
// proxy is asked in HTTP/1.
func (x *http2Exchange) connectThrough() error {
	c, addr := x.client, x.line.hostPort()
	n := &nest{proxy: c.fixed, addr: addr, depth: 1}
	if outer := n.proxy.key.nest; outer != nil {
		n.depth = outer.depth + 1
	}
	if n.depth > maxNests {
		return errManyNests
	}
	n.head = append(n.head, "CONNECT "+x.req.Host+" HTTP/1.1\r\nHost: "+x.req.Host+"\r\n"...)
	for name, values := range x.req.Header {
		for _, value := range values {
			if f, err := newField(name, value); err == nil && f.inHTTP2() && f.kind != contentLengthField {
				n.head = append(append(n.head, f.line...), "\r\n"...)
			}
		}
	}
	n.head = append(n.head, "\r\n"...)
	conn := c.newConn(Destination{Addr: addr, named: nameOf(addr)})
	conn.nest = n
	return x.follow(c.decide(x.flow, conn))
}

// askProxy sends a CONNECT to the other proxy, through the hooks if there are any. It returns no connection
// if there is none yet, or if the client has its answer, which is no tunnel.
func (x *http2Exchange) askProxy() (o *origin, answered bool) {
	r := x.route
	if r.action != Tunnel && x.client.p.dialsLate(r) {
		return nil, false
	}
	x.ask(r.conn.nest)
	h := newHTTP2Hooked(x)
	h.inner = r
	res, err := h.call()
	h.stopInterim()
	x.endInterim()
	switch {
	case err == nil && isTunnel(res.StatusCode, x.req.Method):
		if o, err = h.tunnelOrigin(res); err == nil {
			h.origins.detach(o)
		}
	case err == nil:
		answered = true
		err = h.passHTTP2(x, res)
	}
	h.endTrips()
	h.closeTrips()
	if err != nil {
		answered = true
		x.fail(h.stepOf(err))
	}
	x.follow(r)
	return o, answered
}

// askTunnel sends a CONNECT on s and reads the answer.
func (d *dialer) askTunnel(s *stream, question []byte) error {
	s.readWithin(d.timeout)
	s.writeWithin(d.timeout)
	if _, err := s.nc.Write(question); err != nil {
		return err
	}
	for range maxInterim {
		b, err := s.readHead(d.head.bytes)
		if err != nil {
			return err
		}
		var h head
		if err := h.parse(b, true, d.head.fields); err != nil {
			return err
		}
		status, err := parseStatusLine(h.start)
		switch {
		case err != nil:
			return err
		case status.code/100 == 2:
			s.resume()
			s.writeWithin(0)
			return nil
		case status.code/100 != 1 || status.code == http.StatusSwitchingProtocols:
			return fmt.Errorf("%w: %d %s", errNotTunnels, status.code, status.reason)
		}
	}
	return errInterim
}

// absolute is the target of a request to another proxy, as it came.
type absolute struct {
	target string
	scheme string // with what follows it
	host   string // as hooks got it
}

// newAbsolute returns that of x, nil if it is none.
func newAbsolute(x *exchange, host string) *absolute {
	if !x.isNested() {
		return nil
	}
	target := string(x.line.target)
	return &absolute{target, target[:strings.Index(target, "://")+len("://")], host}
}

// of returns the target of req: as it came if hooks have left it alone, else with what they made of it.
func (a *absolute) of(path string, req *http.Request, changed bool) string {
	if !changed && req.Host == a.host {
		return a.target
	}
	return a.scheme + cmp.Or(req.Host, req.URL.Host) + string(pathOf([]byte(path)))
}

// errOdd are the errors of a CONNECT whose target is no host and port.
var errOdd = []error{errConnect, errHost, errPort, errUserinfo}

// isOdd reports whether err is that of a CONNECT whose target is no host and port: some VPNs begin
// so. An HTTP server may see requests in what follows, so this is only for proxies without hooks
// for HTTP.
func (x *exchange) isOdd(err error) bool {
	return slices.Contains(errOdd, err) && x.client.fixed != nil && x.client.fixed.mayBeProxy() &&
		bytes.HasPrefix(x.client.s.buffered(), []byte("CONNECT "))
}

// dialOther returns a connection for what is only relayed, after all: the one that was dialled early if
// there is one.
func (c *client) dialOther(r *route) (*origin, error) {
	if early := c.fixed.takeEarly(); early != nil {
		return early.take()
	}
	return c.dialTunnel(r)
}

// serveOdd calls the hooks about a protocol that the proxy does not read, and relays it.
func (x *exchange) serveOdd(err error) bool {
	c := x.client
	c.s.discard(-x.consumed)
	if !x.isOdd(err) {
		c.s.discard(x.consumed)
		return false
	}
	conn := *c.fixed.conn
	conn.Protocol = Other
	r := c.decideAgain(c.fixed, x.flow, &conn)
	r.key = r.key.for1()
	switch {
	case r.action == Reject:
		c.s.reset()
		x.err = r.err
		return true
	case r.action != Tunnel && c.p.readsAll():
		c.s.discard(x.consumed)
		return false
	}
	o, err := c.dialOther(r)
	if err != nil {
		c.s.reset()
		x.err = err
		return true
	}
	x.tunnel = &tunnel{route: r, flow: x.flow, o: o}
	return true
}
