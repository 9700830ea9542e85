package mitm

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// findRoute finds the destination of the request and the decision about it, as in HTTP/1.
func (x *http2Exchange) findRoute() error {
	c, credentials := x.client, x.req.Header["Proxy-Authorization"]
	delete(x.req.Header, "Proxy-Authorization") // for us, not for hooks (RFC 9110, section 11.7.2)
	if c.fixed != nil {
		if x.line.form == authorityForm {
			return errNoConnect
		}
		return x.follow(c.fixed)
	}
	if err := c.authenticateBy(credentials); err != nil {
		return err
	}
	switch x.line.form {
	case asteriskForm: // for the proxy itself
		return nil
	case authorityForm:
		return x.follow(c.decide(x.flow, c.newConn(Destination{Addr: x.line.hostPort()})))
	}
	return x.follow(c.routeTo(x.flow, &x.line))
}

// follow makes r the route of the request, unless it is rejected.
func (x *http2Exchange) follow(r *route) error {
	x.route = r
	if x.flow != nil {
		x.flow.Conn = r.conn
	}
	if r.action == Reject {
		return r.err
	}
	return nil
}

// answerHere answers a request that may go no further, see exchange.answerHere.
func (x *http2Exchange) answerHere() {
	h := x.w.Header()
	var echo strings.Builder
	if x.req.Method == http.MethodTrace {
		h.Set("Content-Type", "message/http")
		echo.WriteString("TRACE " + x.req.RequestURI + " HTTP/2.0\r\n")
		for name, values := range x.req.Header {
			for _, value := range values {
				if !isSecret([]byte(name)) {
					echo.WriteString(name + ": " + value + "\r\n")
				}
			}
		}
		echo.WriteString("\r\n")
	}
	h.Set("Content-Length", strconv.Itoa(echo.Len()))
	x.answering(http.StatusOK)
	x.w.WriteHeader(http.StatusOK)
	x.w.Write([]byte(echo.String()))
}

// connect makes a connection of the stream (RFC 9113, section 8.5), which is served like one
// that was accepted.
func (x *http2Exchange) connect() {
	x.waiting.Store(0) // a tunnel has a limit of its own
	nc := newHTTP2Tunnel(x)
	defer nc.stop()
	c := x.client.p.newClient(x.ctx, nc)
	if c == nil {
		x.broken, x.err = true, ErrProxyClosed
		return
	}
	c.run(func() { x.err = x.serveTunnel(c) })
}

func (x *http2Exchange) serveTunnel(c *client) error {
	opens := c.p.opens(x.route)
	var o *origin
	if !opens {
		var err error
		if o, err = c.dialTunnel(x.route); err != nil {
			x.fail(err)
			return x.err
		}
	}
	x.answering(http.StatusOK)
	x.waiting.Store(0)
	x.w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(x.w).Flush(); err != nil {
		if o != nil {
			c.origins.close(o)
		}
		return &OpError{Op: "send response", Err: err}
	}
	err := c.serveTunnel(&tunnel{route: x.route, flow: x.flow, o: o, sniff: opens || x.route.action == Intercept})
	x.broken = err != nil
	return err
}

// http2Tunnel is a stream as a connection. Reading is by way of a pipe, because that has
// deadlines. HTTP/2 of net/http can't end one direction of a stream alone, so that a tunnel
// ends as a whole when the origin ends its side.
type http2Tunnel struct {
	net.Conn          // the reading end of the pipe
	in       net.Conn // the other one
	x        *http2Exchange
	rc       *http.ResponseController
	pumped   chan struct{}
	cut      atomic.Pointer[error] // why the client's side has no proper end
}

func newHTTP2Tunnel(x *http2Exchange) *http2Tunnel {
	out, in := net.Pipe()
	t := &http2Tunnel{Conn: out, in: in, x: x, rc: http.NewResponseController(x.w), pumped: make(chan struct{})}
	go t.pump()
	return t
}

// pump passes on what the client sends.
func (t *http2Tunnel) pump() {
	defer close(t.pumped)
	defer t.in.Close()
	buf := takeBuffer()
	defer giveBuffer(buf)
	for {
		n, err := t.x.req.Body.Read(buf)
		if err != nil && err != io.EOF {
			t.cut.Store(&err)
		}
		if _, failed := t.in.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// stop ends the pump.
func (t *http2Tunnel) stop() {
	t.Conn.Close()
	t.x.req.Body.Close()
	<-t.pumped
}

// Read implements net.Conn.
func (t *http2Tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if cut := t.cut.Load(); err == io.EOF && cut != nil {
		err = *cut
	}
	return n, err
}

// Write implements net.Conn.
func (t *http2Tunnel) Write(p []byte) (int, error) {
	n, err := t.x.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, t.rc.Flush()
}

// CloseWrite ends both directions, this one when the stream is through with.
func (t *http2Tunnel) CloseWrite() error { return t.in.Close() }

// SetWriteDeadline implements net.Conn. It must not pass: what comes after would fail too.
func (t *http2Tunnel) SetWriteDeadline(by time.Time) error { return t.rc.SetWriteDeadline(by) }

// SetDeadline implements net.Conn.
func (t *http2Tunnel) SetDeadline(by time.Time) error {
	t.SetReadDeadline(by)
	return t.SetWriteDeadline(by)
}

// SetLinger makes Close, which follows, one that does not wait for a client that stands still.
func (t *http2Tunnel) SetLinger(int) error { return t.SetWriteDeadline(past) }

// LocalAddr implements net.Conn.
func (t *http2Tunnel) LocalAddr() net.Addr { return t.x.client.s.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (t *http2Tunnel) RemoteAddr() net.Addr { return t.x.client.s.nc.RemoteAddr() }
