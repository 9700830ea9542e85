package mitm

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// failedWait is how long a client whose destination can't be reached has to show
// that it speaks HTTP and can be told so.
const failedWait = time.Second

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

// guardLoop reports whether it is the proxy itself that connects to d.
func (c *client) guardLoop(d Destination) (loop bool, done func()) {
	to, err := netip.ParseAddrPort(d.Addr)
	if err != nil || isDirect(to, c.conn.listener) {
		return err == nil, func() {}
	}
	e, ok := endsOfConn(c.s.nc.RemoteAddr(), net.TCPAddrFromAddrPort(to))
	if !ok {
		return false, func() {}
	}
	return c.p.guard.accept(e)
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

// sniff finds out what a connection to r speaks and serves it. The origin, o or one
// that is dialled meanwhile, is watched too: a server that speaks first is relayed.
func (c *client) sniff(r *route, flow *Flow, o *origin) error {
	early := c.newEarlyDial(r)
	if o != nil || !c.needsNoOrigin(r) && !(c.p.opensTLS() && c.p.choices.speaksHTTP(r.key) && c.speaksSoon()) {
		early.begin(c.s, o)
	}
	conn := c.newConn(r.conn.Destination)
	var err error
	conn.Protocol, err = c.firstBytes(early, r)
	switch {
	case err == errNothingAsked:
		early.close()
		return c.ended(r.key.addr)
	case err != nil && !errors.Is(err, ErrUnread):
		early.reset()
		c.s.reset()
		return c.blame(&OpError{Op: "relay", Addr: r.key.addr, Err: clientGone(err)})
	case conn.Protocol == TLS && err == nil:
		return c.serveTLS(r, flow, conn, early)
	}
	return c.serveSniffed(r, flow, conn, early, err)
}

// serveSniffed serves a client whose protocol is known as far as that is possible: unread, if not nil,
// says that it is none that hooks may miss, so that nothing but a hook can let it pass.
func (c *client) serveSniffed(r *route, flow *Flow, conn *Conn, early *earlyDial, unread error) error {
	early.stopListening()
	c.s.resume()
	_, failed := early.get()
	if cut := early.broken(); cut != nil {
		failed = &OpError{Op: "relay", Addr: r.key.addr, Err: cut}
	}
	again := c.decideAgain(r, flow, conn)
	was := early
	if early = c.lead(was, again); early != was && conn.Protocol == Other && c.mayBecomeHTTP() {
		unread = cmp.Or(unread, errRedirected)
	}
	refused := unread != nil && again.action != Tunnel
	switch {
	case refused && conn.Protocol == Other:
		early.close()
		c.s.reset()
		return cmp.Or(again.err, failed, error(&OpError{Op: "read request", Addr: again.key.addr, Err: unread}))
	case refused && failed == nil: // what came of the request is answered as such
		c.s.interrupt()
	}
	return c.serveProtocol(again, flow, early)
}

// mayBecomeHTTP reports whether what the client will send could make what it has begun a request that
// somebody is to see. Where that is no matter because its server has spoken, another server has not.
func (c *client) mayBecomeHTTP() bool {
	proto, sure := classify(c.s.buffered())
	return c.p.readsAll() && !c.hasEnded && !(sure && proto == Other)
}

// newEarlyDial returns one for r that has not begun.
func (c *client) newEarlyDial(r *route) *earlyDial {
	e := newEarlyDial(c.ctx, &c.origins, r.key, r.conn)
	e.strict = c.p.readsAll()
	return e
}

// needsNoOrigin reports whether it can be put off to connect to where r leads: the client will
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
	case err == errNotOpened && !op.asked: // a part of a ClientHello, or a server that speaks first
		conn.Protocol = Other
		return c.serveSniffed(r, flow, conn, op.early, nil)
	case err == errNotOpened:
		return c.serveProtocol(op.route, flow, c.lead(op.early, op.route))
	case err != nil:
		op.early.reset()
		c.s.close()
		return err
	}
	return op.judge(c.serveInside(op))
}

// serveInside finds out what is spoken inside TLS and serves that.
func (c *client) serveInside(op *opening) error {
	r := op.route
	conn := *op.conn
	r.conn = &conn
	switch c.tls.NegotiatedProtocol {
	case protoHTTP1:
		conn.Protocol = HTTP1
		return c.serveNegotiated(op)
	case protoHTTP2:
		conn.Protocol = HTTP2
		return c.serveNegotiated(op)
	}
	if op.early.begun() && r.action != Reject && r.handler == nil {
		op.early.listenAgain(c.s)
	}
	var err error
	conn.Protocol, err = c.firstBytes(op.early, r)
	if err == errNothingAsked {
		op.early.close()
		return c.ended(r.key.addr)
	}
	if len(c.s.buffered()) > 0 {
		op.accepted()
	}
	if err != nil && !errors.Is(err, ErrUnread) {
		op.early.reset()
		c.s.reset()
		return op.failed(err)
	}
	if conn.Protocol == TLS { // in TLS
		conn.Protocol = Other
	}
	return c.serveSniffed(r, op.flow, &conn, op.early, err)
}

// serveNegotiated serves a client that has negotiated HTTP, or refuses it if it speaks something
// else. While it is silent it can be closed without loss.
func (c *client) serveNegotiated(op *opening) error {
	op.early.stopListening()
	if !c.rest(clientIdle) {
		op.early.close()
		return nil
	}
	c.s.readWithin(c.p.limits.tunnelTime)
	err := c.s.fill(bufferSize)
	if !c.wake() {
		op.early.close()
		return c.ended(op.route.key.addr)
	}
	c.hasEnded = err == io.EOF
	if len(c.s.buffered()) > 0 {
		op.accepted()
	}
	switch have := c.s.buffered(); {
	case len(have) > 0 && op.route.conn.Protocol == HTTP2 && !mayBePreface(have):
		c.s.resume()
		return c.refuseHTTP2(op)
	case len(have) > 0:
		c.s.resume()
		return c.serveProtocol(op.route, op.flow, op.early)
	case err == io.EOF || isTimeout(err): // it has left again
		op.early.close()
		return nil
	}
	op.early.reset()
	c.s.reset()
	return op.failed(err)
}

// refuseHTTP2 ends the connection of a client that has negotiated HTTP/2 and speaks something else, by
// empty SETTINGS and a GOAWAY with PROTOCOL_ERROR (RFC 9113, section 3.4).
func (c *client) refuseHTTP2(op *opening) error {
	op.early.close()
	c.s.writeWithin(c.p.limits.headTime)
	c.s.out.Write([]byte("\x00\x00\x00\x04\x00\x00\x00\x00\x00" +
		"\x00\x00\x08\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00" + "\x00\x00\x00\x01"))
	c.s.linger()
	return &OpError{Op: "read request", Addr: op.conn.Destination.Addr, Err: errNoPreface}
}

var errNoPreface = fmt.Errorf("%w: HTTP/2 was negotiated, and its preface did not come (RFC 9113, section 3.4)", ErrUnread)

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
		return c.blame(err)
	}
	return c.relay(o, flow)
}

// spokenTo is the protocol for the origin of a client that speaks HTTP: in cleartext, where nothing
// is negotiated, it is HTTP/2 only if the client speaks cleartext HTTP/2 too.
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
// unless they have decided already. To read what can't be read is no decision.
func (c *client) decideAgain(r *route, flow *Flow, conn *Conn) *route {
	if r.action == Default || r.action == Intercept && (conn.Protocol == Other || conn.opaque) {
		again := c.decide(flow, conn)
		if again.key.tls && r.key.tls {
			again.key.alpn = r.key.alpn
		}
		return again
	}
	again := &route{conn: conn, action: r.action, err: r.err, key: conn.key(), host: r.host, handler: r.handler, pages: r.pages}
	flow.goes(c.p.identify(again))
	return again
}

// firstBytes reads until it is clear what the client speaks, or the origin speaks. It
// returns an error if the client's connection broke, and ErrUnread with what a client seems to
// have begun that has stopped, or is too long, where hooks are to see all HTTP. Where r leads to a server of HTTP/1
// only, what is not TLS or HTTP/2 is to be refused as that.
func (c *client) firstBytes(early *earlyDial, r *route) (Protocol, error) {
	wait, pause, other := c.p.limits.tunnelTime, prefixWait, Other
	if c.p.readsAll() {
		pause = c.p.limits.headTime
	}
	if r.conn.Destination.Protocol == HTTP1 {
		wait, other = c.p.limits.headTime, HTTP1
	}
	c.s.readWithin(wait)
	for begun, patient := false, false; ; {
		have := c.s.buffered()
		if proto, sure := classify(have); sure && proto == Other || !c.p.readsAll() && beginsBinary(have) {
			return other, nil
		} else if sure {
			return proto, nil
		}
		if !begun && len(have) > 0 {
			begun = true
			c.s.readWithin(pause)
		}
		err := c.await(c.p.limits.requestLine)
		c.hasEnded = err == io.EOF
		have = c.s.buffered()
		switch {
		case err == nil:
			continue
		case err == errFull && classifyLong(have) == HTTP1:
			return HTTP1, nil
		case err == errFull && c.p.readsAll():
			return other, errLongLine
		case err == errFull:
			return other, nil
		case err == io.EOF && classifyEnd(have) == HTTP1:
			return HTTP1, nil
		case err != io.EOF && !isTimeout(err):
			return Unknown, err
		case begun && !patient && c.p.readsAll() && early.hasEnded() && early.broken() == nil: // others may be there
			pause = c.p.limits.headTime
		case patient || !early.dialFailed():
			return c.stopped(early, begun, other, err)
		default:
			pause = failedWait
		}
		early.stopListening()
		patient = true
		c.s.resume()
		c.s.readWithin(pause)
	}
}

// stopped is the end of firstBytes for a client that has begun nothing, or something that it does not
// go on with, because of err: it has ended, or some time has passed, or its origin speaks.
func (c *client) stopped(early *earlyDial, begun bool, other Protocol, err error) (Protocol, error) {
	late := isTimeout(err) && other == Other && !early.hasSpoken()
	switch {
	case late && begun && c.p.readsAll() && early.broken() != nil:
		return Other, errStopped // there is nobody to speak for
	case late && begun && c.p.readsAll():
		return classifyEnd(c.s.buffered()), errStopped
	case late && !begun && !early.hasEnded() && !early.dialFailed():
		return Unknown, errIdle
	}
	return other, nil
}

// errStopped is about a client that has stopped in the middle of its first line, errLongLine about one
// whose first line, or what it sends ahead of one, has no end.
var (
	errStopped  = fmt.Errorf("%w: neither HTTP nor TLS came in time: %w", ErrUnread, os.ErrDeadlineExceeded)
	errLongLine = fmt.Errorf("%w: neither HTTP nor TLS came in what may be a request line", ErrUnread)
)

// errRedirected is about a client that was the second to speak, and has another server now.
var errRedirected = fmt.Errorf("%w: a hook has sent it elsewhere before it was known what it speaks", ErrUnread)

// readsAll reports whether somebody is to see all HTTP.
func (p *Proxy) readsAll() bool { return p.sorted.http != nil }

// lead returns e if its connection leads where r does, or can be made to, else one that does.
func (c *client) lead(e *earlyDial, r *route) *earlyDial {
	was := e.key
	switch {
	case was.socket() != r.key.socket(), was.tls && was != r.key:
		e.close()
		return c.newEarlyDial(r)
	case !e.begun():
		e.key, e.conn = r.key, r.conn
	case r.key.tls && !was.tls:
		e.startTLS(r.key, r.conn)
	}
	return e
}

// opens reports whether what is spoken to r is looked at before there is an origin.
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
