package mitm

import (
	"errors"
	"net/http"
)

// Errors of requests that the mode can't serve.
var (
	errOriginForm = errors.New("this is a proxy: it needs the absolute URL in the request line, or CONNECT (RFC 9112, section 3.2)")
	errNoConnect  = errors.New("CONNECT to a server that is no proxy (RFC 9110, section 9.3.6)")
)

// findRoute finds the destination of the request and the decision about it. The connection's
// own destination, if it has one, is the destination of all its requests: neither the
// target nor the Host field can change that.
func (x *exchange) findRoute() error {
	c := x.client
	switch {
	case c.fixed != nil:
		if x.line.form == authorityForm {
			return errNoConnect
		}
		x.route = c.fixed
	case x.line.form == originForm || x.line.form == asteriskForm:
		return errOriginForm
	case x.line.form == authorityForm:
		x.route = c.decide(x.flow, Destination{Addr: x.line.hostPort()}, Unknown)
	default:
		if x.route = c.routes.find(&x.line); x.route == nil {
			x.route = x.newRoute()
			c.routes.add(x.route)
		}
	}
	if x.flow != nil {
		x.flow.Conn = x.route.conn
	}
	if x.route.action == Reject {
		return x.route.err
	}
	return nil
}

// newRoute decides about the destination of an absolute-form target. Its authority is
// the Host field of each request as that request spells it, unless a hook changes it.
func (x *exchange) newRoute() *route {
	authority := string(x.line.appendAuthority(nil))
	d := Destination{Addr: x.line.hostPort(), TLS: x.line.https, Host: authority}
	r := x.client.decide(x.flow, d, HTTP1)
	if r.host == authority {
		r.host = ""
	}
	return r
}

// routeStatus is requestStatus and exchangeStatus for the errors of findRoute.
func routeStatus(err error) int {
	switch {
	case errors.Is(err, ErrRejected):
		return http.StatusForbidden
	case err == errNoConnect:
		return http.StatusMethodNotAllowed
	}
	return http.StatusBadRequest
}
