package mitm

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
)

// A client's handshake waits for the origin's, to give the client what the origin chose, but
// not for long: whoever answers in the origin's place can do without.
const (
	connectWait = 300 * time.Millisecond // until it is connected
	originWait  = 2 * time.Second
)

// errNotOpened ends a handshake with a client whose TLS is not for the proxy.
var errNotOpened = errors.New("not opened")

// opening is the opening of one client's TLS. It is asked by crypto/tls, by way of the
// context of the handshake, once the ClientHello is there.
type opening struct {
	c      *client
	flow   *Flow
	route  *route // as it was decided so far
	early  *earlyDial
	conn   *Conn
	socket *tlsSocket
	heard  bool   // the ClientHello was understood
	asked  bool   // it was decided about
	shown  bool   // the client was, or is about to be, shown a certificate
	spoke  bool   // it sent something inside TLS
	since  uint64 // when it was shown that, see distrusts.now
	own    *tls.Certificate
	err    error // why it comes to nothing
	mirror choice
}

// openTLS reads the ClientHello that the client has begun with, and has it decided what
// becomes of the connection. Unless it is to be opened, which makes errNotOpened, all that
// the client sent is still there.
func (op *opening) openTLS() error {
	c := op.c
	if !op.early.clientSpeaks(c.p.opensTLS()) {
		return errNotOpened
	}
	c.s.resume()
	c.s.readWithin(c.p.limits.tlsTime)
	c.s.writeWithin(c.p.limits.tlsTime)
	op.socket = holdTLS(c.s)
	nc := tls.Server(op.socket, c.p.tls.base)
	err := op.handshake(nc)
	switch {
	case op.socket.gone != nil:
		return op.failed(op.socket.gone)
	case op.socket.held && !op.heard && (op.socket.ended || op.early.hasSpoken()):
		return errNotOpened // no more comes of it, or it is not for the client to begin
	case op.socket.held && !op.heard:
		return op.unreadable(err)
	case op.socket.held:
		return cmp.Or(op.err, errNotOpened)
	case err != nil:
		return op.handshakeFailed(op.socket.explain(err))
	}
	c.enterTLS(nc, op.socket)
	return nil
}

// handshake survives the panic of a function in Proxy.ClientTLS.
func (op *opening) handshake(nc *tls.Conn) (err error) {
	defer op.c.recovered("tls", &err)
	return nc.HandshakeContext(withHelloHandler(context.Background(), op))
}

// enterTLS makes nc what the client is served on.
func (c *client) enterTLS(nc *tls.Conn, socket *tlsSocket) {
	state := nc.ConnectionState()
	c.s.resume()
	c.s.writeWithin(0) // nobody knows of the handshake's deadline any more
	c.s, c.tls = newTLSStream(nc, socket), &state
	c.watch.s = c.s
}

// configFor implements helloHandler: it decides, with the ClientHello in hand.
func (op *opening) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c := op.c
	op.heard, op.since = true, c.p.distrusts.now()
	op.describe(hello)
	op.early.stopListening()
	c.s.resume()
	if err := op.decide(hello); err != nil {
		if err != errNotOpened { // the client is told by an alert
			op.socket.accept()
		}
		return nil, err
	}
	protocol := op.negotiate(offer(hello.SupportedProtos))
	if c.ctx.Err() != nil {
		op.err = &OpError{Op: "client tls", Addr: op.conn.Destination.Addr, Err: context.Cause(c.ctx)}
		return nil, op.err
	}
	c.s.readWithin(c.p.limits.tlsTime)
	c.s.writeWithin(c.p.limits.tlsTime)
	op.socket.accept()
	return c.p.tls.speaking(protocol), nil
}

// unreadable decides about a client whose ClientHello crypto/tls refuses, because of cause. The
// origin may accept it, but the ClientHello is part of what a handshake proves, so nobody can stand
// in between. The client is refused if its TLS would have been terminated.
func (op *opening) unreadable(cause error) error {
	c := op.c
	message, _ := cutHello(c.s.buffered())
	op.describe(readHello(message))
	op.early.stopListening()
	c.s.resume()
	err := op.decide(nil)
	if err == errNotOpened && op.route.action != Reject {
		return err
	}
	alert := op.socket.unsent
	if len(alert) == 0 {
		alert = []byte{recordAlert, 3, 1, 0, alertSize, 2, 50} // fatal, decode_error (RFC 8446, section 6.2)
	}
	c.s.writeWithin(c.p.limits.tlsTime)
	c.s.out.Write(alert)
	c.s.linger()
	if op.route.action == Reject {
		return op.route.err
	}
	return &OpError{Op: "client tls", Addr: op.conn.Destination.Addr, Err: fmt.Errorf("%w: %w", ErrUnread, cause)}
}

// describe tells the hooks what the client said.
func (op *opening) describe(hello *tls.ClientHelloInfo) {
	op.conn.ServerName = canonicalName(hello.ServerName)
	if op.flow == nil && op.c.p.StartTLS == nil { // nobody to tell
		return
	}
	info := *hello
	info.Conn = nil
	op.conn.ClientHello = &info
	sent := op.c.s.buffered()[:op.socket.at]
	_, size := cutHello(sent)
	op.conn.RawClientHello = slices.Clone(sent[:size])
}

// decide asks the hooks what becomes of the connection; errNotOpened is one of the answers.
// For the hooks the origin is one that speaks TLS, unless the mode knows it otherwise. hello is nil if
// it could not be read.
func (op *opening) decide(hello *tls.ClientHelloInfo) error {
	c, d := op.c, &op.conn.Destination
	var err error
	if c.p.CA == nil && hello != nil {
		op.own, err = c.ownCertificate(hello)
	}
	op.asked, op.conn.opaque = true, hello == nil || c.p.CA == nil && op.own == nil
	plain := d.TLS
	d.TLS = d.TLS || d.Protocol != HTTP1
	op.route = c.decideAgain(op.route, op.flow, op.conn)
	if op.route.action == Default && !c.p.sorted.unreadRefused && c.p.distrusts.has(c.distrust(op.conn)) {
		op.route.action = Tunnel
	}
	switch {
	case op.route.action == Tunnel:
	case hello != nil && c.p.CA != nil:
		op.own, err = c.ownCertificate(hello)
		return err
	case err != nil, !op.conn.opaque, hello == nil && c.p.opensTLS():
		return err
	}
	d.TLS = plain
	op.route.key = op.conn.key()
	op.flow.goes(c.p.identify(op.route))
	return errNotOpened
}

// ownCertificate asks for a certificate that the embedder has; nil if there is none.
func (c *client) ownCertificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
	defer c.recovered("tls", &err)
	return c.p.tls.own(hello)
}

// negotiate finds out which protocol the client is to be told, from the origin if that
// answers in time, and begins the origin's handshake.
func (op *opening) negotiate(offered []string) string {
	c, r := op.c, op.route
	if allowed := r.conn.Destination.Protocols; allowed != nil {
		offered = slices.DeleteFunc(slices.Clone(offered), func(p string) bool { return !slices.Contains(allowed, p) })
	}
	if r.action == Reject || !r.key.tls {
		return choice{}.answer(offered, false)
	}
	if c.p.dialsLate(r) {
		r.key.alpn = choice{}.answer(offered, false)
		op.early = c.lead(op.early, r)
		return r.key.alpn
	}
	r.key.alpn = strings.Join(offered, ",")
	op.early = c.lead(op.early, r)
	known, ok := c.p.choices.get(r.key)
	if ok {
		op.mirror = known
		op.insist(known.protocol)
		return known.answer(offered, true)
	}
	if !op.early.begun() {
		op.early.begin(nil, nil)
	}
	if c.p.choices.missed(r.key) {
		return choice{}.answer(offered, false)
	}
	asked := r.key // by the client: the origin may be asked otherwise
	o := op.awaitOrigin()
	if _, err := op.early.get(); isNoProtocol(err) && op.insist(otherHTTP(offered)) {
		op.early.begin(nil, nil)
		o = op.awaitOrigin()
	}
	if o == nil || o.state == nil {
		c.p.choices.miss(asked, op.conn)
		return choice{}.answer(offered, false)
	}
	op.mirror = c.p.choices.put(asked, o, op.conn)
	return op.mirror.answer(offered, true)
}

func (op *opening) awaitOrigin() *origin {
	op.c.watch.arm()
	defer op.c.watch.disarm()
	return op.early.wait(connectWait, originWait)
}

// insist makes the origin be offered the version of HTTP that it insists on, which is not the
// client's: the one is made of the other. It returns false if that is offered already.
func (op *opening) insist(protocol string) bool {
	r := op.route
	switch offered := r.key.alpn; {
	case protocol == protoHTTP2 && !strings.Contains(offered, protoHTTP2):
		r.key.alpn = protoHTTP2
	case protocol == protoHTTP1 && offered == protoHTTP2:
		r.key = r.key.forHTTP(HTTP2) // as for the requests that are to come
	default:
		return false
	}
	op.early.close()
	op.early = op.c.newEarlyDial(r)
	return true
}

// certificate implements helloHandler. A resumed handshake needs none.
func (op *opening) certificate(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
	defer func() { op.shown, op.since = err == nil, op.c.p.distrusts.now() }()
	defer op.c.recovered("tls", &err)
	if op.own != nil {
		return op.own, nil
	}
	host, _, _ := net.SplitHostPort(op.conn.Destination.Addr)
	mirror := op.mirror.cert
	if !op.mirror.verified && op.conn.ServerName != "" { // whoever made it would get clients to take it for others
		mirror = nil
	}
	ca := op.c.p.CA
	return ca.certificate(namesFor(op.conn.ServerName, host, mirror), ca.keys.kindFor(hello))
}

func (c *client) distrust(conn *Conn) distrust {
	host, _, _ := net.SplitHostPort(c.remoteAddr())
	return distrust{host, conn.ServerName, conn.Destination.Addr}
}
