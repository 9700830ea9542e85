package mitm

import (
	"bytes"
	"time"
)

const (
	// prefixWait is how long a client that has begun something that could still become
	// HTTP or TLS may stop in the middle of it.
	prefixWait = 2 * time.Second
	// failedWait is how long a client whose destination can't be reached has to show
	// that it speaks HTTP and can be told so.
	failedWait = time.Second
	// maxMethod is the longest method that makes the first bytes a request.
	maxMethod = 32
)

// serveDestination serves a connection that has a destination of its own.
func (c *client) serveDestination(d Destination) {
	flow := c.newFlow()
	r := c.decide(flow, d, d.Protocol)
	if r.action != Reject && r.action != Tunnel && d.Protocol == HTTP1 {
		c.serveFixed(r)
		return
	}
	if err := c.open(r, flow); err != errIsHTTP {
		c.finish(flow, err)
	}
}

// open dials the destination of a connection that may speak anything, and serves it.
func (c *client) open(r *route, flow *Flow) error {
	if r.action == Reject {
		c.refuse(r, r.err)
		return r.err
	}
	if reply := r.conn.Destination.Reply; reply == nil && r.action != Tunnel {
		return c.sniff(r, flow, nil)
	}
	o, err := c.origins.dial(c.ctx, r.key)
	if err != nil {
		c.refuse(r, err)
		return err
	}
	if reply := r.conn.Destination.Reply; reply != nil {
		if err := reply(nil); err != nil {
			c.origins.close(o)
			return err
		}
	}
	if r.action == Tunnel {
		return c.relay(o, flow)
	}
	return c.sniff(r, flow, o)
}

// refuse ends a connection that gets no origin: told in the mode's protocol, if it has
// one, else by a reset as if nobody listened there.
func (c *client) refuse(r *route, err error) {
	if reply := r.conn.Destination.Reply; reply != nil {
		reply(err)
		return
	}
	c.s.reset()
}

// serveFixed serves HTTP/1 requests that all go to r, whatever they say.
func (c *client) serveFixed(r *route) {
	r.conn.Protocol = HTTP1
	c.fixed = r
	c.serveHTTP1()
}

// errIsHTTP tells that a connection turned out to have flows of its own.
var errIsHTTP = errorString("exchanges")

type errorString string

func (e errorString) Error() string { return string(e) }

// sniff finds out what a connection to r speaks and serves it. The origin, o or one
// that is dialled meanwhile, is watched too: a server that speaks first is relayed.
func (c *client) sniff(r *route, flow *Flow, o *origin) error {
	early := newEarlyDial(c.ctx, c.s, &c.origins, r.key, o)
	proto := c.firstBytes(early)
	if proto == HTTP1 {
		early.stopListening()
		c.s.resume()
		again := c.decide(flow, r.conn.Destination, HTTP1)
		if again.action == Default || again.action == Intercept {
			again.early = early
			c.serveFixed(again)
			early.close()
			return errIsHTTP
		}
		r = again
	}
	o, err := early.take()
	if err == nil && r.action == Reject {
		c.origins.close(o)
		err = r.err
	}
	if err != nil {
		c.s.reset()
		return err
	}
	return c.relay(o, flow)
}

// firstBytes reads until it is clear what the client speaks, or the origin speaks.
func (c *client) firstBytes(early *earlyDial) Protocol {
	c.s.readWithin(c.p.limits.tunnelTime)
	for begun := false; ; {
		if proto, sure := classify(c.s.buffered()); sure {
			return proto
		}
		if !begun && len(c.s.buffered()) > 0 {
			begun = true
			c.s.readWithin(prefixWait)
		}
		err := c.s.fill(c.p.limits.requestLine)
		if err == nil {
			continue
		}
		if early.dialFailed() && !begun {
			early.stopListening()
			begun = true
			c.s.resume()
			c.s.readWithin(failedWait)
			continue
		}
		return Other
	}
}

// classify tells what b is the beginning of. It is not sure as long as b could become
// HTTP or TLS.
func classify(b []byte) (proto Protocol, sure bool) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // RFC 9113, section 3.4
	if len(b) == 0 {
		return Unknown, false
	}
	if b[0] == 0x16 {
		return classifyTLS(b)
	}
	if n := min(len(b), len(preface)); string(b[:n]) == preface[:n] && n > 2 {
		return HTTP2, n == len(preface)
	}
	method, rest, spaced := bytes.Cut(b[:min(len(b), maxMethod+1)], []byte{' '})
	if !isToken(method) || !spaced && len(b) > maxMethod {
		return Other, true
	}
	if !spaced {
		return HTTP1, false
	}
	rest = b[len(method)+1:]
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
