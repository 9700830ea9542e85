package mitm

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
)

// The protocols inside TLS that the proxy reads (RFC 7301, RFC 9113 section 3.1).
const (
	protoHTTP1 = "http/1.1"
	protoHTTP2 = "h2"
	protoH2C   = "h2c" // cleartext HTTP/2, with prior knowledge
)

// startTLSFunc is the type of Proxy.StartTLS.
type startTLSFunc = func(ctx context.Context, c *Conn, nc net.Conn, config *tls.Config) (conn net.Conn, protocol string, err error)

// secure does the client's side of a handshake on o, and closes it if that fails. Errors
// are *OpError.
func (d *dialer) secure(ctx context.Context, o *origin, key originKey, c *Conn) (*origin, error) {
	ctx, cancel := withTimeout(ctx, d.handshake)
	defer cancel()
	socket := newTLSSocket(o.s)
	nc, state, err := d.shake(ctx, c, socket, d.configFor(key))
	if err != nil {
		o.s.close()
		if o.s.isLoop() {
			err = ErrLoop
		}
		return nil, &OpError{Op: "tls", Addr: key.addr, Err: err}
	}
	o.s.endGuard() // a loop would not have come that far
	if tc, ok := nc.(*tls.Conn); ok && d.mayRenegotiate(key, state) {
		nc = renegotiatingConn{tc, socket}
	}
	secured := &origin{s: newTLSStream(nc, socket), key: key, state: state}
	if state.NegotiatedProtocol != protoHTTP2 {
		secured.key = key.for1()
	}
	return secured, nil
}

// configFor returns the configuration for one connection. The copy shares the session
// cache and the roots.
func (d *dialer) configFor(key originKey) *tls.Config {
	config := d.config
	if key.config != nil {
		config = key.config
	}
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = key.serverName
	}
	if config.KeyLogWriter == nil {
		config.KeyLogWriter = d.config.KeyLogWriter
	}
	config.VerifyConnection = longKeys(config)
	config.NextProtos = nil
	if key.alpn != "" {
		config.NextProtos = strings.Split(key.alpn, ",")
	}
	return config
}

// mayRenegotiate reports whether a secured connection may renegotiate later, which TLS 1.3 has
// abolished. What StartTLS has negotiated is unknown.
func (d *dialer) mayRenegotiate(key originKey, state *tls.ConnectionState) bool {
	config := d.config
	if key.config != nil {
		config = key.config
	}
	return state.Version < tls.VersionTLS13 && (d.startTLS != nil || config.Renegotiation != tls.RenegotiateNever)
}

// shake is the handshake itself, by crypto/tls or by whatever the embedder put in place.
func (d *dialer) shake(ctx context.Context, c *Conn, nc net.Conn, config *tls.Config) (conn net.Conn, state *tls.ConnectionState, err error) {
	defer func() {
		if v := recover(); v != nil { // of StartTLS, or of a function in config
			err = d.panicked("tls", v)
		}
	}()
	if d.startTLS == nil {
		c := tls.Client(nc, config)
		if err := c.HandshakeContext(ctx); err != nil {
			return nil, nil, err
		}
		state := c.ConnectionState()
		return c, &state, nil
	}
	conn, protocol, err := d.startTLS(ctx, c, nc, config)
	if conn == nil && err == nil {
		err = errNoConn
	}
	state = &tls.ConnectionState{HandshakeComplete: true, NegotiatedProtocol: protocol, ServerName: config.ServerName}
	if own, ok := conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		*state = own.ConnectionState()
	}
	return conn, state, err
}
