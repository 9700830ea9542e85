package mitm

import (
	"errors"
	"net/http"
	"strconv"
)

// maxRoutes bounds how many destinations a client connection remembers decisions for.
const maxRoutes = 64

// routes remembers, for one client connection, what was decided about the
// destinations that its requests named.
type routes struct {
	byName map[string]*route
	name   []byte // scratch: scheme, host and port
	last   *route // of the name in lastOf
	lastOf string
}

// find returns the route that line names, if it was decided before. Asking for the same
// one again and again costs no memory.
func (rs *routes) find(line *requestLine) *route {
	name := append(rs.name[:0], "http"...)
	if line.https {
		name = append(name, 's')
	}
	name = append(append(append(name, '|'), line.host...), '|')
	rs.name = strconv.AppendUint(name, uint64(line.port), 10)
	if rs.last != nil && string(rs.name) == rs.lastOf {
		return rs.last
	}
	r := rs.byName[string(rs.name)]
	if r != nil {
		rs.last, rs.lastOf = r, string(rs.name)
	}
	return r
}

// add remembers r for the line that find was asked about last.
func (rs *routes) add(r *route) {
	if rs.byName == nil {
		rs.byName = map[string]*route{}
	}
	if len(rs.byName) >= maxRoutes {
		for name, old := range rs.byName {
			old.closeBound()
			delete(rs.byName, name)
		}
	}
	rs.last, rs.lastOf = r, string(rs.name)
	rs.byName[rs.lastOf] = r
}

// close closes connections that only this client may use.
func (rs *routes) close() {
	for _, r := range rs.byName {
		r.closeBound()
	}
}

func (r *route) closeBound() {
	if r.bound != nil {
		r.bound.s.nc.Close()
		r.bound = nil
	}
}

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
