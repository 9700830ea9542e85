package mitm

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

// Errors of requests that the mode can't serve.
var (
	errOriginForm = errors.New("this is a proxy: it needs the absolute URL in the request line, or CONNECT (RFC 9112, section 3.2)")
	errInTheClear = errors.New("https target on a connection in the clear (RFC 9110, section 4.2.2)")
	errNoConnect  = errors.New("CONNECT to a server that is no proxy (RFC 9110, section 9.3.6)")
)

// routed is a request of HTTP/1 or HTTP/2, as far as they are the same: who sent it, what it
// says of itself, and where it goes.
type routed struct {
	client  *client
	flow    *Flow // nil: nobody wants to know
	line    requestLine
	control control
	route   *route
	err     error // what DoneHooks are told
}

// findRoute finds the destination of the request and the decision about it. The connection's
// own destination, if it has one, is the destination of all its requests: neither the
// target nor the Host field can change that. Otherwise credentials, the values of
// Proxy-Authorization, are looked at first.
func (x *routed) findRoute(credentials []string) error {
	c := x.client
	if c.fixed != nil {
		if err := x.fits(c.fixed); err != nil {
			return err
		}
		return x.follow(c.fixed)
	}
	if x.line.form == originForm {
		return errOriginForm
	}
	if err := c.checkCredentials(credentials); err != nil {
		return err
	}
	switch x.line.form {
	case asteriskForm: // for the proxy itself
		return nil
	case authorityForm:
		return x.follow(c.decide(x.flow, c.newConn(Destination{Addr: x.line.hostPort(), named: nameOf(x.line.hostPort())})))
	}
	return x.follow(c.routeTo(x.flow, &x.line))
}

// routeTo returns the route that an absolute-form target names. Streams of one connection
// share it, and wait for the decision about it, but not for those about others.
func (c *client) routeTo(flow *Flow, line *requestLine) *route {
	rs := &c.routes
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for {
		if r := rs.find(line); r != nil {
			return r
		}
		name := string(rs.name)
		decided := rs.deciding[name]
		if decided == nil {
			return c.decideRoute(flow, line, name)
		}
		rs.mu.Unlock()
		<-decided
		rs.mu.Lock()
	}
}

// decideRoute makes the route of name. The lock is held, but not while hooks are asked.
func (c *client) decideRoute(flow *Flow, line *requestLine, name string) *route {
	rs, decided := &c.routes, make(chan struct{})
	defer close(decided)
	if rs.deciding == nil {
		rs.deciding = map[string]chan struct{}{}
	}
	rs.deciding[name] = decided
	rs.mu.Unlock()
	r := c.newRoute(flow, line)
	rs.mu.Lock()
	delete(rs.deciding, name)
	rs.add(name, r)
	return r
}

// follow makes r the route of the request, unless it is rejected.
func (x *routed) follow(r *route) error {
	x.route = r
	x.flow.goes(r)
	if x.route.action == Reject {
		return x.route.err
	}
	return nil
}

// fits reports whether a request makes sense to the server that r leads to.
func (x *routed) fits(r *route) error {
	switch {
	case x.line.form == authorityForm && !r.mayBeProxy():
		return errNoConnect
	case x.line.https && !r.key.tls && x.client.tls == nil:
		return errInTheClear
	}
	return nil
}

// newRoute decides about the destination of an absolute-form target. Its authority is
// the Host field of each request as that request spells it, unless a hook changes it.
func (c *client) newRoute(flow *Flow, line *requestLine) *route {
	authority := string(line.appendAuthority(nil))
	d := Destination{Addr: line.hostPort(), TLS: line.https, Host: authority}
	conn := c.newConn(d)
	conn.Protocol = HTTP1
	r := c.decide(flow, conn)
	if r.host == authority {
		r.host = ""
	}
	return r
}

// target is the request target for the origin: origin-form (RFC 9112, section 3.2.1).
func (x *routed) target() []byte {
	if path := x.line.path; len(path) > 0 && path[0] == '/' {
		return path
	}
	return x.line.appendOriginForm(nil)
}

// answered tells the flow that a final response is on its way to the client.
func (x *routed) answered(status int) {
	if x.flow != nil {
		x.flow.Answered, x.flow.Status = time.Now(), status
	}
}

// checkCredentials shows credentials to whoever the mode says. Of several none counts: it
// can't be told which one another reader would believe.
func (c *client) checkCredentials(credentials []string) (err error) {
	switch {
	case c.authenticate == nil:
		return nil
	case len(credentials) > 1:
		return ErrCredentials
	}
	defer func() { err = refusal(err) }() // a panic is none of the client's business
	defer c.recovered("mode", &err)
	return c.authenticate(c.ctx, strings.Join(credentials, ""))
}

// consumes reports whether a value of Proxy-Authorization is for the proxy itself (RFC 9110,
// section 11.7.2). It is if the request names its destination. On a connection with a destination,
// the value is meant for the server that the client speaks to, which may be another proxy; the
// exception is the credentials that the client has sent by SOCKS.
func (c *client) consumes(credentials string) bool {
	return c.fixed == nil || c.conn.isOwn != nil && c.conn.isOwn(credentials)
}

// consumeCredentials keeps the proxy's own credentials from the origin and from hooks.
func (x *exchange) consumeCredentials() {
	for i := range x.head.fields {
		if f := &x.head.fields[i]; f.kind == proxyAuthorizationField && x.client.consumes(string(f.value)) {
			f.kind = ownCredentialsField
		}
	}
}

// credentials returns the values of Proxy-Authorization if anybody wants to know.
func (x *exchange) credentials() (values []string) {
	if x.client.authenticate == nil {
		return nil
	}
	for i := range x.head.fields {
		if f := &x.head.fields[i]; f.kind == ownCredentialsField {
			values = append(values, string(f.value))
		}
	}
	return values
}

// denial is what a client is told of a destination that it does not get, and its error.
func denial(err error) (int, error) {
	switch {
	case errors.Is(err, ErrCredentials):
		return http.StatusProxyAuthRequired, &OpError{Op: "mode", Err: err}
	case errors.Is(err, ErrRejected):
		return http.StatusForbidden, err
	case err == errNoConnect:
		return http.StatusMethodNotAllowed, &OpError{Op: "read request", Err: err}
	}
	return http.StatusBadRequest, &OpError{Op: "read request", Err: err}
}

// deny answers a request whose destination is none, or not for this client. The connection
// goes on where the request can be read to its end, but not after a CONNECT: what follows
// one may not be HTTP (RFC 9931).
func (x *exchange) deny(err error) {
	status, err := denial(err)
	if status == http.StatusBadRequest || x.line.form == authorityForm || x.client.fixed != nil {
		x.refuse(status, err)
		return
	}
	x.err = err
	if !x.control.expectContinue {
		x.body.drain()
	}
	if x.keep = x.answer(status, err.Error(), x.control.close || !x.body.ended()); !x.keep {
		x.linger()
	}
}
