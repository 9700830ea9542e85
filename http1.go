package mitm

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"net/http"
	"sync"
)

// exchange is one request on a client connection and its response. It is scratch memory
// that is used again; what hooks get to see lives elsewhere.
type exchange struct {
	routed
	head   head
	raw    []byte // what head was parsed from; valid until more is read
	method string // of line, which content that comes later overwrites
	body   *body  // the request's content: own, or one that hooks may hold on to
	own    body
	trip   trip
	reply  sender
	clock  clock
	sides  *sides // nil: it had no hooks yet

	consumed int    // bytes of the head
	inner    *route // of the tunnel that is asked for, see connectThrough

	keep   bool    // the client connection serves another request
	tunnel *tunnel // what the connection becomes instead
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// tunnel is what a connection is after a CONNECT or an Upgrade.
type tunnel struct {
	route *route
	flow  *Flow
	o     *origin
	under *origin // what o runs on if a hook wrapped it
	sniff bool    // look what is inside
}

// openTunnel dials r, so that the client is told what really happened. But where TLS is to be
// opened, it can be told in there, and hooks may answer in the origin's place, as a Handler does:
// then there is no connection yet.
func (c *client) openTunnel(r *route) (*origin, error) {
	if c.p.opens(r) && (r.conn.nest == nil || c.p.dialsLate(r)) { // what another proxy says is for the client
		return nil, nil
	}
	return c.dialTunnel(r)
}

// connected returns the tunnel that a request has asked for, to o if there is a connection.
func (x *routed) connected(o *origin) *tunnel {
	c, r := x.client, x.route
	sniff := o == nil || r.action == Intercept || r.action == Default && c.p.sorted.unreadRefused
	if r.conn.nest != nil && r.action != Tunnel { // a server that is no proxy could take it for requests
		sniff = sniff || c.p.opensTLS() || c.p.readsAll()
	}
	return &tunnel{route: x.route, flow: x.flow, o: o, sniff: sniff}
}

// serveHTTP1 serves requests until the connection ends or becomes a tunnel.
func (c *client) serveHTTP1() {
	for first := true; c.awaitRequest(first); first = false {
		x := exchanges.Get().(*exchange)
		x.client = c
		x.serve()
		keep, t := x.keep, x.tunnel
		if t == nil {
			c.finish(x.flow, x.err)
		}
		x.release()
		if t != nil {
			c.finish(t.flow, c.serveTunnel(t))
		}
		if !keep {
			return
		}
	}
}

// errIsHTTP reports that a connection turned out to have flows of its own.
var errIsHTTP = errors.New("the connection has exchanges of its own")

func (c *client) serveTunnel(t *tunnel) error {
	if t.under != nil {
		defer c.origins.close(t.under)
	}
	if !t.sniff {
		return c.relay(t.o, t.flow)
	}
	defer c.enter(t.route.conn.nest)()
	err := c.sniff(t.route, t.flow, t.o)
	if err == errIsHTTP {
		err = c.ended(t.route.key.addr)
	}
	return err
}

// release gives the memory back without what it referred to.
func (x *exchange) release() {
	x.reply.done()
	x.trip.request.done()
	x.client.s.release()
	keepFields := func(h *head) head { clear(h.fields[:cap(h.fields)]); return head{fields: h.fields[:0]} }
	request, response, sides := keepFields(&x.head), keepFields(&x.trip.head), x.sides
	if sides != nil {
		sides.near.forget()
		sides.far.forget()
	}
	*x = exchange{}
	x.head, x.trip.head, x.sides = request, response, sides
	exchanges.Put(x)
}

// awaitRequest waits for the first byte of a request and skips empty lines before it
// (RFC 9112, section 2.2). It returns false when there is none.
func (c *client) awaitRequest(first bool) bool {
	const maxEmptyLines = 8
	if first {
		c.s.readWithin(c.p.limits.headTime)
	} else {
		c.s.readWithin(c.p.limits.idleTime)
	}
	for range maxEmptyLines {
		if !c.awaitByte() {
			return false
		}
		switch b := c.s.buffered(); {
		case b[0] == '\n':
			c.s.discard(1)
		case b[0] != '\r':
			return true
		case len(b) > 1 && b[1] != '\n':
			return true // refused as a request line
		case len(b) > 1:
			c.s.discard(2)
		default:
			if c.s.fill(bufferSize) != nil {
				return false
			}
		}
	}
	return true // one more is refused as a request line
}

func (c *client) awaitByte() bool {
	if len(c.s.buffered()) > 0 {
		return true
	}
	if !c.rest(clientIdle) {
		return false
	}
	err := c.s.fill(bufferSize)
	return c.wake() && err == nil
}

// serve reads the request and sees to it that it is answered.
func (x *exchange) serve() {
	c := x.client
	x.flow = c.newFlow()
	if err := x.read(); err != nil {
		if x.serveOdd(err) {
			return
		}
		x.keepHead()
		x.err = c.blame(&OpError{Op: "read request", Err: clientGone(err)})
		if err != io.EOF {
			x.refuse(requestStatus(err), x.err)
		}
		return
	}
	x.describe()
	x.body = &x.own
	x.body.start(c.s, &x.control, c.p.limits.contentTime, c.p.limits.head)
	if err := x.findRoute(x.credentials()); err != nil {
		x.deny(err)
		return
	}
	switch {
	case x.line.form == authorityForm:
		x.connect()
	case x.route == nil, x.control.maxForwards == 0 && countsForwards(x.method):
		x.answerHere()
	case c.p.sorted.http != nil && x.route.action != Tunnel, x.route.handler != nil, x.route.key.mayHTTP2():
		x.hooked()
	default:
		x.forward()
	}
}

// read reads and understands the head of the request.
func (x *exchange) read() error {
	b, err := x.readHead()
	x.raw, x.consumed = b, len(b)
	if err != nil {
		return err
	}
	if err := x.head.parse(b, false, x.client.p.limits.head.fields); err != nil {
		return err
	}
	if x.line, err = parseRequestLine(x.head.start); err != nil {
		return err
	}
	x.method = methodString(x.line.method)
	if err := x.control.read(x.head.fields); err != nil {
		return err
	}
	if err := x.control.request(x.line.minor); err != nil {
		return err
	}
	if x.control.proxyAuthorized {
		x.consumeCredentials()
	}
	if x.line.form == authorityForm && !x.control.framing.empty() {
		return errConnectContent
	}
	if x.control.badForwards && countsForwards(x.method) {
		return errMaxForwards
	}
	x.control.close = x.control.close || x.line.minor == 0 // RFC 9112, section 9.3
	return cmp.Or(x.checkHost(), x.checkVia())
}

// checkHost lets a CONNECT do without Host, which old clients leave out: its target says it all.
func (x *exchange) checkHost() error {
	if x.line.form == authorityForm && x.control.hosts == 0 {
		return nil
	}
	return x.control.checkHost(x.line.minor)
}

// errConnectContent: what follows a CONNECT belongs to the tunnel (RFC 9110, section 9.3.6).
var errConnectContent = errors.New("CONNECT with content (RFC 9110, section 9.3.6)")

// keepHead tells the flow of a request that was refused what came of its head.
func (x *exchange) keepHead() {
	const most = 64 << 10
	if x.flow == nil {
		return
	}
	raw := x.raw
	if raw == nil { // it did not come to its end, or was not waited for
		raw = x.client.s.buffered()
		if n := headEnd(raw, 0); n > 0 {
			raw = raw[:n]
		}
	}
	x.flow.Head = bytes.Clone(raw[:min(len(raw), most)])
}

// readHead reads up to the empty line. A client that has sent a request line that can't
// be one is not waited for.
func (x *exchange) readHead() ([]byte, error) {
	s, limits := x.client.s, x.client.p.limits.head
	for scanned, checked := 0, false; ; {
		have := s.buffered()
		lf := bytes.IndexByte(have, '\n')
		if lineTooLong(have, lf, x.client.p.limits.requestLine) {
			return nil, errLineTooLong
		}
		if n := headEnd(have, scanned); n > 0 && n <= limits.bytes {
			s.discard(n)
			return have[:n], nil
		}
		if err := checkBeginning(have, lf); err != nil {
			return nil, err
		}
		if lf >= 0 && !checked {
			checked = true
			if line, _, err := cutLine(have); err != nil || len(line) > 0 {
				if _, lineErr := parseRequestLine(line); cmp.Or(err, lineErr) != nil {
					return nil, cmp.Or(err, lineErr)
				}
			}
		}
		if len(have) >= limits.bytes {
			return nil, errHeadTooLarge
		}
		if scanned == 0 {
			s.readWithin(x.client.p.limits.headTime) // once: it covers the whole head
		}
		scanned = len(have)
		if err := s.fill(limits.bytes); err != nil {
			return nil, err
		}
	}
}

// Errors of a connection that does not begin with a request.
var (
	errNoMethod = errors.New("what came does not begin with a method (RFC 9112, section 3)")
	errTLSHere  = errors.New("TLS on a port that speaks HTTP without it: the URL of the proxy, or server, begins with http")
)

// checkBeginning checks the beginning of a request line, before its end (at lf) has come: a client
// that begins with something else may never send one.
func checkBeginning(b []byte, lf int) error {
	const handshake = 0x16 // a TLS record (RFC 8446, section 5.1)
	method, _, _ := bytes.Cut(b, []byte{' '})
	switch {
	case len(b) > 0 && b[0] == handshake:
		return errTLSHere
	case lf < 0 && len(b) > 0 && b[0] != '\r' && !isToken(bytes.TrimSuffix(method, []byte{'\r'})): // a CR may be half of a line end
		return errNoMethod
	}
	return nil
}

// lineTooLong leaves the line end out of the count; lf is where it is, if it is there.
func lineTooLong(have []byte, lf, limit int) bool {
	if lf < 0 {
		return len(have) > limit+len("\r")
	}
	return len(bytes.TrimSuffix(have[:lf], []byte{'\r'})) > limit
}

// describe tells the flow what the request is.
func (x *exchange) describe() {
	if x.flow == nil {
		return
	}
	x.flow.Method = x.method
	switch fixed := x.client.fixed; {
	case x.line.form == authorityForm, fixed == nil && x.line.form == absoluteForm:
		x.flow.URL = string(x.line.target)
	case fixed != nil:
		x.flow.URL = fixed.site + string(pathOf(x.target()))
	default: // for the proxy itself, or refused
		x.flow.URL = "http://" + string(x.control.host) + string(pathOf(x.line.path))
	}
}

// pathOf is what an URL has of a target (RFC 9112, section 3.3).
func pathOf(target []byte) []byte {
	if string(target) == "*" {
		return nil
	}
	return target
}

// methodString avoids memory for the usual methods.
func methodString(b []byte) string {
	for _, m := range [...]string{"GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"} {
		if string(b) == m {
			return m
		}
	}
	return string(b)
}

// forward passes the request and its response without building anything for hooks.
func (x *exchange) forward() {
	t := &x.trip
	x.client.startTrip(t, x.route, x.method)
	t.request.start(nil, x.control.framing, x.client.p.limits.contentTime)
	target := x.line.target
	if !x.isNested() {
		target = x.target()
	}
	t.request.out = appendRequestLine(t.request.out, x.line.method, target)
	w := x.requestRewrite()
	t.request.out = w.appendTo(t.request.out)
	t.bound = x.control.connectionBound
	t.asks(&w)
	t.owner = x
	all, err := t.request.collect(x.body)
	if err != nil {
		x.refuse(requestStatus(err), x.client.blame(&OpError{Op: "read request", Err: clientGone(err)}))
		return
	}
	if all {
		x.client.watch.arm()
	} else {
		x.shareClock(&x.clock)
		t.clock, t.request.clock = &x.clock, &x.clock
		t.source, t.content, t.expects = x.body, x.body, x.control.expectContinue && x.line.minor > 0
	}
	if err = t.run(x.client.ctx); err != nil {
		x.countUp(x.body.count)
		x.fail(err)
		return
	}
	x.passResponse()
}

// shareClock makes c the clock of what comes from the client and what goes there.
func (x *exchange) shareClock(c *clock) {
	c.limit, c.client = x.client.p.limits.contentTime, x.client.s
	x.body.clock, x.reply.clock = c, c
}

// panicked implements tripOwner.
func (x *exchange) panicked(v any) error { return x.client.panicked("hook", v) }

// startTrip gives t what it needs of the client.
func (c *client) startTrip(t *trip, r *route, method string) {
	t.client, t.origins, t.watch, t.limits = c.s, &c.origins, &c.watch, &c.p.limits
	t.clientDone = c.ctx.Done()
	t.route, t.method = r, method
}

// requestRewrite says how the fields of the request change on their way.
func (x *exchange) requestRewrite() rewrite {
	w := rewrite{
		fields:   x.head.fields,
		control:  &x.control,
		framing:  x.control.framing,
		minor:    x.line.minor,
		via:      x.client.p.Via,
		forwards: x.control.maxForwards > 0 && countsForwards(x.method),
	}
	host := x.client.host[:0]
	switch {
	case x.route.host != "":
		host = append(host, x.route.host...)
	case x.line.form == absoluteForm && !x.isNested():
		host = x.line.appendAuthority(host)
	default:
		w.keepHost = true
		if x.control.hosts == 0 && x.line.host != nil {
			host = x.line.appendAuthority(host)
		} else if x.control.hosts == 0 { // HTTP/1.0
			host = append(host, x.route.authority()...)
		}
	}
	x.client.host, w.host = host, host
	return w
}

// interim passes a 1xx response on (RFC 9110, section 15.2); HTTP/1.0 knows none.
func (x *exchange) interim(t *trip) error {
	if x.line.minor == 0 {
		return nil
	}
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	x.reply.out = x.appendResponseHead(x.reply.out, t, framing{}, false)
	if x.reply.flush() != nil {
		x.client.leave()
		return ErrClientGone
	}
	return nil
}

// appendResponseHead writes the head of t's response for the client.
func (x *exchange) appendResponseHead(dst []byte, t *trip, f framing, closing bool) []byte {
	dst = appendStatusLine(dst, t.status.code, t.status.reason)
	w := rewrite{
		fields: t.head.fields, control: &t.control, framing: f, response: true,
		status: t.status.code, minor: t.status.minor, close: closing, via: x.client.p.Via, protocol: t.protocol,
	}
	return w.appendTo(dst)
}

// forClient returns how content is framed for the client: as it comes, but HTTP/1.0
// knows no chunks.
func (x *exchange) forClient(f framing) framing {
	if f.kind == chunked && x.line.minor == 0 {
		return framing{kind: closeFramed}
	}
	return f
}

// passResponse passes the response of x.trip to the client.
func (x *exchange) passResponse() {
	t := &x.trip
	x.answered(t.status.code)
	if t.status.code == http.StatusSwitchingProtocols {
		x.switchProtocols()
		return
	}
	f := x.forClient(t.control.framing)
	cut := !t.goesOn() && t.uploadingStill() // in this order, see finish
	closing := x.control.close || f.kind == closeFramed || cut || x.client.p.closing.Load()
	x.reply.start(x.client.s, f, x.client.p.limits.contentTime)
	x.reply.out = x.appendResponseHead(x.reply.out, t, f, closing)
	err := x.reply.send(&t.body)
	if err == nil && t.goesOn() {
		x.endResponse()
	}
	x.countDown(t.body.count)
	sent := t.finish(err == nil)
	x.countUp(x.body.count)
	x.conclude(err, t.route.key.addr, closing, sent)
	if err != nil && t.uploadErr != nil && !isSendError(err) { // the response was given up for that
		x.err = x.client.blame(&OpError{Op: "read request", Err: clientGone(t.uploadErr)})
	}
}
