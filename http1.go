package mitm

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// exchange is one request on a client connection and its response. It is scratch memory
// that is used again; what hooks get to see lives elsewhere.
type exchange struct {
	client  *client
	flow    *Flow // nil: nobody wants to know
	route   *route
	head    head
	line    requestLine
	control control
	body    *body // the request's content: own, or one that hooks may hold on to
	own     body
	trip    trip
	reply   sender

	keep   bool    // the client connection serves another request
	tunnel *tunnel // what the connection becomes instead
	err    error   // what DoneHooks are told
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// tunnel is what a connection is after a CONNECT or an Upgrade.
type tunnel struct {
	route *route
	flow  *Flow
	o     *origin
	sniff bool // look what is inside
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
			c.serveTunnel(t)
		}
		if !keep {
			return
		}
	}
}

func (c *client) serveTunnel(t *tunnel) {
	if !t.sniff {
		c.finish(t.flow, c.relay(t.o, t.flow))
		return
	}
	err := c.sniff(t.route, t.flow, t.o)
	if err == errIsHTTP {
		err = nil
	}
	c.finish(t.flow, err)
}

// release gives the memory back without what it referred to.
func (x *exchange) release() {
	x.reply.done()
	x.trip.request.done()
	x.client.s.release()
	keepFields := func(h *head) head { clear(h.fields[:cap(h.fields)]); return head{fields: h.fields[:0]} }
	request, response := keepFields(&x.head), keepFields(&x.trip.head)
	*x = exchange{}
	x.head, x.trip.head = request, response
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
	c.state.Store(clientIdle)
	if c.p.closing.Load() && c.state.CompareAndSwap(clientIdle, clientClosed) {
		return false
	}
	err := c.s.fill(bufferSize)
	return c.state.CompareAndSwap(clientIdle, clientActive) && err == nil
}

// serve reads the request and sees to it that it is answered.
func (x *exchange) serve() {
	c := x.client
	x.flow = c.newFlow()
	if err := x.read(); err != nil {
		x.err = &OpError{Op: "read request", Err: err}
		if err != io.EOF {
			x.refuse(requestStatus(err), x.err)
		}
		return
	}
	x.describe()
	if err := x.findRoute(); err != nil {
		x.refuse(routeStatus(err), err)
		return
	}
	x.body = &x.own
	x.body.start(c.s, x.control.framing, c.p.limits.contentTime, c.p.limits.head)
	switch {
	case x.line.form == authorityForm:
		x.connect()
	case x.control.maxForwards == 0 && x.countsForwards():
		x.answerHere()
	case c.p.sorted.http != nil && x.route.action != Tunnel:
		x.hooked()
	default:
		x.forward()
	}
}

// read reads and understands the head of the request.
func (x *exchange) read() error {
	b, err := x.readHead()
	if err != nil {
		return err
	}
	if err := x.head.parse(b, false, x.client.p.limits.head.fields); err != nil {
		return err
	}
	if x.line, err = parseRequestLine(x.head.start); err != nil {
		return err
	}
	if err := x.control.read(x.head.fields); err != nil {
		return err
	}
	if err := x.control.request(x.line.minor); err != nil {
		return err
	}
	if x.line.form == authorityForm && !x.control.framing.empty() {
		return errConnectContent
	}
	x.control.close = x.control.close || x.line.minor == 0 // RFC 9112, section 9.3
	return firstError(x.control.checkHost(x.line.minor), x.checkVia())
}

// errConnectContent: what follows a CONNECT belongs to the tunnel (RFC 9110, section 9.3.6).
var errConnectContent = errors.New("CONNECT with content (RFC 9110, section 9.3.6)")

// readHead reads up to the empty line. A client that has sent a request line that can't
// be one is not waited for.
func (x *exchange) readHead() ([]byte, error) {
	s, limits := x.client.s, x.client.p.limits.head
	if n := headEnd(s.buffered(), 0); n == 0 {
		s.readWithin(x.client.p.limits.headTime) // once: it covers the whole head
	}
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
		if lf >= 0 && !checked {
			checked = true
			if line, _, err := cutLine(have); err != nil || len(line) > 0 {
				if _, lineErr := parseRequestLine(line); firstError(err, lineErr) != nil {
					return nil, firstError(err, lineErr)
				}
			}
		}
		if len(have) >= limits.bytes {
			return nil, errHeadTooLarge
		}
		scanned = len(have)
		if err := s.fill(limits.bytes); err != nil {
			return nil, err
		}
	}
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
	x.flow.Method = methodString(x.line.method)
	switch {
	case x.line.form == originForm || x.line.form == asteriskForm:
		scheme := "http://"
		if x.client.fixed != nil && x.client.fixed.key.tls {
			scheme = "https://"
		}
		x.flow.URL = scheme + string(x.control.host) + string(x.line.target)
	default:
		x.flow.URL = string(x.line.target)
	}
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
	x.client.startTrip(t, x.route, methodString(x.line.method))
	t.request.start(nil, x.control.framing, x.client.p.limits.contentTime)
	t.request.out = appendRequestLine(t.request.out, x.line.method, x.target())
	w := x.requestRewrite()
	t.request.out = w.appendTo(t.request.out)
	t.upgrade, t.bound = w.upgrades(), x.control.connectionBound
	t.owner = x
	all, err := t.request.collect(x.body)
	if err != nil {
		x.refuse(requestStatus(err), &OpError{Op: "read request", Err: err})
		return
	}
	if all {
		x.client.watch.arm()
	} else {
		t.source, t.content, t.stop = x.body, x.body, x.client.s.interrupt
	}
	err = t.run(x.client.ctx)
	if all {
		x.client.watch.disarm()
	}
	x.countUp(x.body.count)
	if err != nil {
		x.fail(err)
		return
	}
	x.passResponse()
}

// panicked implements tripOwner.
func (x *exchange) panicked(v any) error { return x.client.panicked("hook", v) }

// startTrip gives t what it needs of the client.
func (c *client) startTrip(t *trip, r *route, method string) {
	t.client, t.origins, t.watch, t.limits = c.s, &c.origins, &c.watch, &c.p.limits
	t.clientDone = c.ctx.Done()
	t.route, t.method = r, method
}

// target is the request target for the origin: origin-form (RFC 9112, section 3.2.1).
func (x *exchange) target() []byte {
	if path := x.line.path; len(path) > 0 && path[0] == '/' {
		return path
	}
	return x.line.appendOriginForm(nil)
}

// requestRewrite says how the fields of the request change on their way.
func (x *exchange) requestRewrite() rewrite {
	w := rewrite{
		fields:   x.head.fields,
		control:  &x.control,
		framing:  x.control.framing,
		minor:    x.line.minor,
		via:      x.client.p.Via,
		forwards: x.control.maxForwards > 0 && x.countsForwards(),
	}
	switch {
	case x.route.host != "":
		w.host = []byte(x.route.host)
	case x.line.form == absoluteForm:
		x.client.host = x.line.appendAuthority(x.client.host[:0])
		w.host = x.client.host
	default:
		w.keepHost, w.host = true, []byte(x.route.key.addr)
	}
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
		status: t.status.code, minor: t.status.minor, close: closing, via: x.client.p.Via,
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
	if x.flow != nil {
		x.flow.Answered, x.flow.Status = time.Now(), t.status.code
	}
	if t.status.code == http.StatusSwitchingProtocols {
		x.switchProtocols()
		return
	}
	f := x.forClient(t.control.framing)
	closing := x.control.close || f.kind == closeFramed || t.uploadingStill() || x.client.p.closing.Load()
	x.reply.start(x.client.s, f, x.client.p.limits.contentTime)
	x.reply.out = x.appendResponseHead(x.reply.out, t, f, closing)
	err := x.reply.send(&t.body)
	x.countDown(t.body.count)
	sent := t.finish()
	x.countUp(x.body.count)
	x.conclude(err, t.route.key.addr, closing, sent)
}

// conclude decides what becomes of the client connection after a response.
func (x *exchange) conclude(err error, addr string, closing, sent bool) {
	switch {
	case err != nil:
		x.breakOff(err, addr)
	case closing || !sent:
		x.linger()
	default:
		x.keep = true
	}
}

// breakOff ends the connection in the middle of a response, so that it shows: a length
// or a last chunk is missing, or else the connection is reset.
func (x *exchange) breakOff(err error, addr string) {
	var sending *sendError
	if errors.As(err, &sending) {
		x.err = &OpError{Op: "send response", Err: x.cause(err)}
		x.client.s.reset()
		return
	}
	x.err = &OpError{Op: "read response", Addr: addr, Err: x.cause(err)}
	if x.reply.framing.kind == closeFramed {
		x.client.s.reset()
		return
	}
	x.linger()
}

// cause prefers the reason why the connection was ended to what the end looked like.
func (x *exchange) cause(err error) error {
	if x.client.ctx.Err() == nil {
		return err
	}
	return context.Cause(x.client.ctx)
}

// linger closes after an answer whose request may not have been read to its end:
// closing at once would destroy the answer on its way (RFC 9112, section 9.6).
func (x *exchange) linger() {
	const lingerTime, lingerBytes = time.Second, 256 << 10
	s := x.client.s
	if s.closeWrite() != nil {
		return
	}
	s.resume()
	s.readWithin(lingerTime)
	for n := 0; n < lingerBytes; {
		n += len(s.buffered())
		s.discard(len(s.buffered()))
		if s.fill(bufferSize) != nil {
			return
		}
	}
}

// refuse answers a request that can't be served, and closes: what follows it may be
// its content, or not even a request.
func (x *exchange) refuse(status int, err error) {
	x.err = err
	x.answer(status, err.Error(), true)
	x.linger()
}

// fail answers a request that got no response. The connection goes on if the request
// was read to its end.
func (x *exchange) fail(err error) {
	x.err = err
	if x.client.ctx.Err() != nil {
		x.err = &OpError{Op: "read response", Addr: x.route.key.addr, Err: context.Cause(x.client.ctx)}
		return
	}
	status := exchangeStatus(err)
	var op *OpError
	if errors.As(err, &op) && op.Op == "read request" {
		status = requestStatus(err)
	}
	x.keep = x.answer(status, err.Error(), x.control.close || !x.body.ended())
	if !x.keep {
		x.linger()
	}
}

// answer writes a short response of the proxy's own and says whether the connection
// can serve another request.
func (x *exchange) answer(status int, text string, closing bool) (keep bool) {
	if x.flow != nil {
		x.flow.Status = status
	}
	closing = closing || x.client.p.closing.Load()
	if status == http.StatusForbidden {
		text = ErrRejected.Error() // why is in Flow.Err, not for the client
	}
	text += "\n"
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	b := appendStatusLine(x.reply.out, status, http.StatusText(status))
	b = append(time.Now().UTC().AppendFormat(append(b, "Date: "...), http.TimeFormat), "\r\n"...)
	b = append(b, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(text)), 10), "\r\n"...)
	if closing {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if string(x.line.method) != http.MethodHead {
		b = append(b, text...)
	}
	x.reply.out = b
	return x.reply.flush() == nil && !closing
}

func (x *exchange) countUp(n int64) {
	if x.flow != nil {
		x.flow.up.Store(n)
	}
}

func (x *exchange) countDown(n int64) {
	if x.flow != nil {
		x.flow.down.Store(n)
	}
}
