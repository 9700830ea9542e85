package mitm

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"time"
)

const (
	// failedWait is how long a client whose destination can't be reached has to show
	// that it speaks HTTP and can be told so.
	failedWait = time.Second
	// maxMethod is the longest method that makes the first bytes a request.
	maxMethod = 32
)

// serveNamed serves a client whose requests name their destinations.
func (c *client) serveNamed() {
	c.s.readWithin(c.p.limits.headTime)
	for {
		proto, sure := classify(c.s.buffered())
		switch {
		case proto == HTTP2 && sure:
			c.serveHTTP2()
			return
		case proto == HTTP2 && c.s.fill(bufferSize) == nil:
			continue
		}
		c.serveHTTP1()
		return
	}
}

// serveDestination serves a connection that has a destination of its own.
func (c *client) serveDestination(d Destination) {
	flow, conn := c.newFlow(), c.newConn(d)
	conn.Protocol = d.Protocol
	if d.redirected {
		loop, done := c.guardLoop(d)
		defer done()
		if loop {
			c.s.reset()
			if flow != nil {
				flow.Conn = conn
			}
			c.finish(flow, &OpError{Op: "mode", Addr: d.Addr, Err: ErrLoop})
			return
		}
	}
	r := c.decide(flow, conn)
	if r.action != Tunnel && d.Protocol == HTTP1 && !c.p.opensTLS() {
		c.fixed = r
		c.serveHTTP1()
		return
	}
	if err := c.open(r, flow); err != errIsHTTP {
		c.finish(flow, err)
	}
}

// guardLoop says whether it is the proxy itself that connects to d.
func (c *client) guardLoop(d Destination) (loop bool, done func()) {
	from, _ := addrPort(c.s.nc.RemoteAddr())
	to, err := netip.ParseAddrPort(d.Addr)
	if err != nil || isDirect(to, c.conn.listener) {
		return err == nil, func() {}
	}
	return c.p.guard.accept(ends{from, to})
}

// open dials the destination of a connection that may speak anything, and serves it.
func (c *client) open(r *route, flow *Flow) error {
	if r.action == Reject {
		c.refuse(r, r.err)
		return r.err
	}
	if r.action != Tunnel && (r.conn.Destination.Reply == nil || c.p.opens(r)) {
		if err := c.reply(r, nil); err != nil {
			return err
		}
		return c.sniff(r, flow, nil)
	}
	o, err := c.dialTunnel(r)
	if err != nil {
		c.refuse(r, err)
		return err
	}
	if err := c.reply(r, nil); err != nil {
		c.origins.close(o)
		return err
	}
	if r.action == Tunnel {
		return c.relay(o, flow)
	}
	return c.sniff(r, flow, o)
}

// reply tells the client, in the mode's protocol if it has one, how the dial went.
func (c *client) reply(r *route, dialErr error) (err error) {
	defer c.recovered("mode", &err)
	reply := r.conn.Destination.Reply
	if reply == nil {
		return nil
	}
	c.s.writeWithin(c.p.limits.headTime)
	return reply(dialErr)
}

// refuse ends a connection that gets no origin: told in the mode's protocol, if it has
// one, else by a reset as if nobody listened there.
func (c *client) refuse(r *route, err error) {
	if r.conn.Destination.Reply != nil {
		c.reply(r, err)
		c.s.linger()
		return
	}
	c.s.reset()
}

// errIsHTTP tells that a connection turned out to have flows of its own.
var errIsHTTP = errors.New("the connection has exchanges of its own")

// sniff finds out what a connection to r speaks and serves it. The origin, o or one
// that is dialled meanwhile, is watched too: a server that speaks first is relayed.
func (c *client) sniff(r *route, flow *Flow, o *origin) error {
	early := newEarlyDial(c.ctx, &c.origins, r.key, r.conn)
	if o != nil || !c.needsNoOrigin(r) && !(c.p.opensTLS() && c.p.choices.speaksHTTP(r.key) && c.speaksSoon()) {
		early.begin(c.s, o)
	}
	conn := c.newConn(r.conn.Destination)
	var err error
	if conn.Protocol, err = c.firstBytes(early, r); err != nil {
		early.reset()
		c.s.reset()
		return &OpError{Op: "relay", Addr: r.key.addr, Err: err}
	}
	if conn.Protocol == TLS {
		return c.serveTLS(r, flow, conn, early)
	}
	early.stopListening()
	c.s.resume()
	again := c.decideAgain(r, flow, conn)
	return c.serveProtocol(again, flow, c.lead(early, again))
}

// needsNoOrigin says whether it can be put off to connect to where r leads: the client will
// be the first to speak, or there is no need for a connection at all.
func (c *client) needsNoOrigin(r *route) bool {
	return c.p.dialsLate(r) || r.conn.Destination.Protocol == HTTP1
}

// soon is how long a client of a server that is known for HTTPS has to be the first to speak, as
// most are. Then there may be an idle connection that fits better than a new one.
const soon = 100 * time.Millisecond

// speaksSoon reports whether the client begins, or ends, within that time.
func (c *client) speaksSoon() bool {
	if len(c.s.buffered()) > 0 {
		return true
	}
	c.s.readWithin(soon)
	return !isTimeout(c.s.fill(bufferSize))
}

// serveTLS serves a client that begins with a ClientHello: what is inside, if it is opened.
func (c *client) serveTLS(r *route, flow *Flow, conn *Conn, early *earlyDial) error {
	op := &opening{c: c, flow: flow, route: r, conn: conn, early: early}
	err := op.openTLS()
	switch {
	case err == errNotOpened && !op.heard: // no ClientHello after all
		conn.Protocol = Other
		c.s.resume()
		op.route = c.decideAgain(r, flow, conn)
		fallthrough
	case err == errNotOpened:
		return c.serveProtocol(op.route, flow, c.lead(op.early, op.route))
	case err != nil:
		op.early.reset()
		c.s.close()
		return err
	}
	return c.serveInside(op)
}

// serveInside finds out what is spoken inside TLS and serves that.
func (c *client) serveInside(op *opening) error {
	r := op.route
	conn := *op.conn
	r.conn = &conn
	waits := isHTTP(c.tls.NegotiatedProtocol) // and nothing is lost if it is closed
	if waits {
		op.early.stopListening()
		if !c.rest() {
			op.early.close()
			return nil
		}
	} else if op.early.begun() && r.action != Reject && r.handler == nil {
		op.early.listenAgain(c.s)
	}
	var err error
	conn.Protocol, err = c.firstBytes(op.early, r)
	if waits && !c.wake() {
		op.early.close()
		return nil
	}
	if err != nil {
		op.early.reset()
		c.s.reset()
		return c.refusedBy(op.conn, err)
	}
	op.early.stopListening()
	c.s.resume()
	if waits && len(c.s.buffered()) == 0 { // it has left again
		op.early.close()
		return nil
	}
	if begun, _ := classify(c.s.buffered()); waits && begun == HTTP1 { // also if it stopped in the middle
		conn.Protocol = HTTP1
	}
	return c.serveProtocol(r, op.flow, op.early)
}

// serveProtocol serves what r.conn says is spoken.
func (c *client) serveProtocol(r *route, flow *Flow, early *earlyDial) error {
	if r.action != Tunnel && (r.conn.Protocol == HTTP1 || r.conn.Protocol == HTTP2) { // a Reject is told in HTTP
		if !r.conn.Destination.allows(r.conn.Protocol) {
			early.close()
			return c.refuseVersion(r)
		}
		if early.begun() {
			r.early = early
		}
		r.key = r.key.forHTTP(c.spokenTo(r))
		c.fixed = r
		if r.conn.Protocol == HTTP1 {
			c.serveHTTP1()
		} else {
			c.serveHTTP2()
		}
		early.close()
		return errIsHTTP
	}
	if r.action == Reject || r.handler != nil {
		early.close()
		c.s.reset()
		return cmp.Or[error](r.err, &OpError{Op: "relay", Addr: r.key.addr, Err: errHandlerOnly})
	}
	if r.action != Tunnel && c.p.dialsLate(r) && !early.begun() && len(c.s.buffered()) == 0 { // there was nothing to dial for
		c.s.close()
		return nil
	}
	flow.goes(r)
	o, err := early.take()
	if err == nil && early.cut != nil {
		c.origins.close(o)
		err = &OpError{Op: "relay", Addr: r.key.addr, Err: early.cut}
	}
	if err != nil {
		c.s.reset()
		return err
	}
	return c.relay(o, flow)
}

// spokenTo is what is spoken to the origin of a client that speaks HTTP: in the clear, where
// nothing is negotiated, HTTP/2 only if the client does so in the clear too.
func (c *client) spokenTo(r *route) Protocol {
	if !r.key.tls && (c.tls != nil || r.conn.Destination.Protocol == HTTP1) {
		return HTTP1
	}
	if r.key.alpn == protoHTTP2 { // it speaks nothing else
		return HTTP2
	}
	return r.conn.Protocol
}

// decideAgain asks the ConnHooks once more, now that it is known what the client speaks,
// unless they have decided already.
func (c *client) decideAgain(r *route, flow *Flow, conn *Conn) *route {
	if r.action == Default {
		return c.decide(flow, conn)
	}
	again := &route{conn: conn, action: r.action, err: r.err, key: conn.key(), host: r.host, handler: r.handler, pages: r.pages}
	flow.goes(c.p.identify(again))
	return again
}

// firstBytes reads until it is clear what the client speaks, or the origin speaks. It
// returns an error if the client's connection broke. Where r leads to a server of HTTP/1 only,
// what is not TLS or HTTP/2 is to be refused as that.
func (c *client) firstBytes(early *earlyDial, r *route) (Protocol, error) {
	wait, other := c.p.limits.tunnelTime, Other
	if r.conn.Destination.Protocol == HTTP1 {
		wait, other = c.p.limits.headTime, HTTP1
	}
	c.s.readWithin(wait)
	for begun, patient := false, false; ; {
		if proto, sure := classify(c.s.buffered()); sure && proto == Other {
			return other, nil
		} else if sure {
			return proto, nil
		}
		if !begun && len(c.s.buffered()) > 0 {
			begun = true
			c.s.readWithin(prefixWait)
		}
		err := c.s.fill(c.p.limits.requestLine)
		switch {
		case err == nil:
			continue
		case err == errFull: // only what reads like a request so far gets that long
			return HTTP1, nil
		case err != io.EOF && !isTimeout(err):
			return Unknown, err
		case patient || !early.dialFailed():
			return other, nil
		}
		early.stopListening()
		patient = true
		c.s.resume()
		c.s.readWithin(failedWait)
	}
}

// classify tells what b is the beginning of. It is not sure as long as b could become
// HTTP or TLS.
func classify(b []byte) (proto Protocol, sure bool) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4
	b = bytes.TrimPrefix(b, []byte("\r\n"))            // RFC 9112, section 2.2
	if len(b) == 0 || string(b) == "\r" {
		return Unknown, false
	}
	if b[0] == 0x16 {
		return classifyTLS(b)
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] && n > 2 {
		return HTTP2, n == len(preface)
	}
	method, _, spaced := bytes.Cut(b[:min(len(b), maxMethod+1)], []byte{' '})
	if !isToken(method) || !spaced && len(b) > maxMethod {
		return Other, true
	}
	if !spaced {
		return HTTP1, false
	}
	rest := b[len(method)+1:]
	target, version, spaced := bytes.Cut(rest, []byte{' '})
	if len(rest) > 0 && len(target) == 0 || bytes.ContainsAny(target, "\r\n") {
		return Other, true
	}
	const http1 = "HTTP/1."
	if n := min(len(version), len(http1)); spaced && string(version[:n]) != http1[:n] {
		return Other, true
	}
	return HTTP1, len(version) >= len(http1)
}

// classifyTLS recognises a handshake record that begins with a ClientHello (RFC 8446,
// sections 4 and 5.1).
func classifyTLS(b []byte) (Protocol, bool) {
	if len(b) > 1 && b[1] != 3 || len(b) > 5 && b[5] != 1 {
		return Other, true
	}
	return TLS, len(b) > 5
}

// lead returns e if its connection leads where r does, or can be made to, else one that does.
func (c *client) lead(e *earlyDial, r *route) *earlyDial {
	was := e.key
	switch {
	case was.socket() != r.key.socket(), was.tls && was != r.key:
		e.close()
		return newEarlyDial(c.ctx, &c.origins, r.key, r.conn)
	case !e.begun():
		e.key, e.conn = r.key, r.conn
	case r.key.tls && !was.tls:
		e.startTLS(r.key, r.conn)
	}
	return e
}

// opens says whether what is spoken to r is looked at before there is an origin.
func (p *Proxy) opens(r *route) bool {
	return r.action != Tunnel && (p.opensTLS() || p.dialsLate(r))
}

// dialsLate reports whether nothing is dialled for r before it is needed, if it ever is.
func (p *Proxy) dialsLate(r *route) bool {
	return r.handler != nil || r.conn.Destination.DialLate || p.Transport != nil
}

// errVersionHere is HTTP of a version that is not in Destination.Protocols.
var errVersionHere = errors.New("version of HTTP that is not for this destination")

// refuseVersion answers a client whose HTTP is not in Destination.Protocols. In HTTP/2 there is no
// answer that every client understands; this is what a server of HTTP/1 says.
func (c *client) refuseVersion(r *route) error {
	var reply sender
	reply.start(c.s, framing{}, c.p.limits.contentTime)
	reply.out = appendStatusLine(reply.out, http.StatusHTTPVersionNotSupported, http.StatusText(http.StatusHTTPVersionNotSupported))
	reply.out = append(appendDate(reply.out), "Content-Length: 0\r\nConnection: close\r\n\r\n"...)
	if reply.flush() == nil {
		c.s.linger()
	}
	reply.done()
	return &OpError{Op: "read request", Addr: r.key.addr, Err: errVersionHere}
}
