package mitm

import (
	"errors"
	"net/http"
	"strconv"
)

// This file ends exchanges: what the client is sent when it gets no response of an origin, and what
// becomes of its connection.

// conclude decides what becomes of the client connection after a response.
func (x *exchange) conclude(err error, addr string, closing, sent bool) {
	x.client.watch.disarm()
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
	if isSendError(err) {
		x.err = x.client.blame(&OpError{Op: "send response", Err: clientGone(err)})
		x.client.s.reset()
		return
	}
	x.err = x.client.blame(&OpError{Op: "read response", Addr: addr, Err: err})
	if x.reply.framing.kind == closeFramed || errors.Is(err, http.ErrAbortHandler) {
		x.client.s.reset()
		return
	}
	x.linger()
}

// endResponse shows the client that the response is through where only the end of the connection says
// so, while its content goes on.
func (x *exchange) endResponse() {
	if x.reply.framing.kind == closeFramed {
		x.client.s.closeWrite()
	}
}

// linger closes after an answer whose request may not have been read to its end.
func (x *exchange) linger() {
	if x.body == nil || !x.body.ended() || halfCloser(x.client.s.given()) != nil {
		x.client.s.linger()
	} // else nothing that came is in the way of the answer, and an end at once is a clean one
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
	x.client.watch.disarm()
	if x.err = x.client.blame(err); x.client.ctx.Err() != nil {
		return
	}
	x.keep = x.answer(failureStatus(err), err.Error(), x.control.close || !x.body.ended())
	if !x.keep {
		x.linger()
	}
}

// challenge is what a client without credentials is asked for (RFC 7617, section 2.1).
const challenge = `Basic realm="proxy", charset="UTF-8"`

// tellable is what a client is told: of some errors the text is in Flow.Err and not for it.
func (x *routed) tellable(status int, text string) string {
	switch {
	case status == http.StatusForbidden:
		text = ErrRejected.Error()
	case status == http.StatusProxyAuthRequired:
		text = ErrCredentials.Error()
	case errors.Is(x.err, errPanic):
		text = errPanic.Error()
		if op := (*OpError)(nil); errors.As(x.err, &op) {
			text = op.Op + ": " + text
		}
	}
	return text + "\n"
}

// answer writes a short response of the proxy's own and reports whether the connection
// can serve another request.
func (x *exchange) answer(status int, text string, closing bool) (keep bool) {
	x.answered(status)
	closing = closing || x.client.p.closing.Load()
	if closing {
		x.client.s.ignore()
	}
	text = x.tellable(status, text)
	x.reply.start(x.client.s, framing{}, x.client.p.limits.contentTime)
	b := appendStatusLine(x.reply.out, status, http.StatusText(status))
	b = appendDate(b)
	if status == http.StatusProxyAuthRequired {
		b = append(append(append(b, "Proxy-Authenticate: "...), challenge...), "\r\n"...)
	}
	b = append(b, "Content-Type: text/plain; charset=utf-8\r\nContent-Length: "...)
	b = append(strconv.AppendInt(b, int64(len(text)), 10), "\r\n"...)
	if closing {
		b = append(b, "Connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if x.method != http.MethodHead {
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
