package mitm

import (
	"bytes"
	"net/http"
	"strconv"
)

// connect serves a CONNECT (RFC 9110, section 9.3.6).
func (x *exchange) connect() {
	if x.client.fixed != nil {
		x.connectThrough()
		return
	}
	o, err := x.client.openTunnel(x.route)
	if err != nil {
		x.control.close = true // RFC 9931: what follows a refused CONNECT is no request
		x.fail(err)
		return
	}
	x.establish(o)
}

// establish answers a CONNECT. There may be no connection to the other side yet.
func (x *exchange) establish(o *origin) {
	c := x.client
	x.reply.start(c.s, framing{}, c.p.limits.contentTime)
	x.reply.out = append(x.reply.out, "HTTP/1.1 200 Connection Established\r\n\r\n"...)
	if err := x.reply.flush(); err != nil {
		x.err = c.blame(&OpError{Op: "send response", Err: clientGone(err)})
		if o != nil {
			c.origins.close(o)
		}
		return
	}
	x.answered(http.StatusOK)
	x.tunnel = x.connected(o)
}

// switchProtocols passes a 101 on, after which the connection is a tunnel (RFC 9110,
// section 7.8).
func (x *exchange) switchProtocols() {
	t := &x.trip
	x.client.watch.disarm()
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	x.reply.out = x.appendResponseHead(x.reply.out, t, framing{}, false)
	if err := x.reply.flush(); err != nil {
		x.err = x.client.blame(&OpError{Op: "send response", Err: clientGone(err)})
		t.abandon()
		return
	}
	x.tunnel = &tunnel{route: t.route, flow: x.flow, o: t.takeOrigin()}
}

// countsForwards reports whether Max-Forwards has a meaning for the method (RFC 9110,
// section 7.6.2).
func countsForwards(method string) bool {
	return method == http.MethodTrace || method == http.MethodOptions
}

// answerHere answers a request that may go no further: OPTIONS with nothing, TRACE with
// the request as it came, without what is secret in it (RFC 9110, section 9.3.8).
func (x *exchange) answerHere() {
	x.control.close = x.control.close || !x.body.ended()
	if x.control.close {
		x.client.s.ignore()
	}
	var echo []byte
	if x.method == http.MethodTrace {
		echo = append(append(echo, x.head.start...), "\r\n"...)
		for _, f := range x.head.fields {
			if !isSecret(f.name) {
				echo = append(append(echo, f.line...), "\r\n"...)
			}
		}
		echo = append(echo, "\r\n"...)
	}
	x.answered(http.StatusOK)
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	b := appendStatusLine(x.reply.out, http.StatusOK, "OK")
	b = appendDate(b)
	if echo != nil {
		b = append(b, "Content-Type: message/http\r\n"...)
	}
	b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(echo)), 10), "\r\n"...)
	if x.control.close {
		b = append(b, "Connection: close\r\n"...)
	}
	x.reply.out = append(append(b, "\r\n"...), echo...)
	if x.keep = x.reply.flush() == nil && !x.control.close; !x.keep {
		x.linger()
	}
}

func isSecret(name []byte) bool {
	for _, secret := range [...]string{"authorization", "proxy-authorization", "cookie"} {
		if equalFold(name, secret) {
			return true
		}
	}
	return false
}

// checkVia refuses a request that came by already (RFC 9110, section 7.6.3).
func (x *exchange) checkVia() error {
	if x.client.p.Via == "" {
		return nil
	}
	for i := range x.head.fields {
		f := &x.head.fields[i]
		if f.kind != viaField {
			continue
		}
		if viaNames(f.value, x.client.p.Via) {
			return ErrLoop
		}
	}
	return nil
}

// viaNames reports whether a Via field names who.
func viaNames(via []byte, who string) (found bool) {
	tokens(via, func(token []byte) bool {
		parts := bytes.Fields(token)
		found = len(parts) > 1 && string(parts[1]) == who && who != ""
		return !found
	})
	return found
}
