package mitm

import (
	"net/http"
	"strconv"
	"strings"
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
