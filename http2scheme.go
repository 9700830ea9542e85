package mitm

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
)

// This file makes net/http tell the :scheme of a request, which it does in one way only: its HTTP/2
// server sets Request.TLS if :scheme is https, to what the connection says of its TLS. But net/http
// does not look for cleartext HTTP/2 on a connection that says something. So that is added
// behind its back, on the way to the HTTP/2 server, which is in Server.TLSNextProto.

// errNoScheme is for a net/http that does not ask the connection.
var errNoScheme = errors.New(":scheme is not known")

// tellScheme is called when server is ready to accept conn. TLSNextProto's functions take a tls.Conn:
// one that is in the clear is inside of what that runs on. This is how net/http hands it to
// golang.org/x/net/http2, too.
func (h *http2Client) tellScheme(conn *streamConn) {
	const inTheClear = "unencrypted_http2"
	serve := h.server.TLSNextProto[inTheClear]
	if serve == nil {
		return
	}
	h.server.TLSNextProto[inTheClear] = func(server *http.Server, _ *tls.Conn, handler http.Handler) {
		serve(server, tls.Client(schemeConn{conn, &h.schemeTold}, nil), handler)
	}
}

// schemeConn is a connection that says that it is TLS.
type schemeConn struct {
	*streamConn
	told *bool
}

// UnencryptedNetConn is what net/http looks for.
func (c schemeConn) UnencryptedNetConn() net.Conn { return c }

// ConnectionState returns what is good enough for HTTP/2 (RFC 9113, section 9.2).
func (c schemeConn) ConnectionState() tls.ConnectionState {
	*c.told = true
	return tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
}

// scheme is that of :scheme, unless the connection is secured and has a destination: what comes on
// it does not leave as cleartext.
func (x *http2Exchange) scheme() string {
	if x.req.TLS != nil || x.client.fixed != nil && x.client.tls != nil {
		return "https"
	}
	return "http"
}

// checkScheme refuses a request that may be one for an https target.
func (x *http2Exchange) checkScheme() error {
	if !x.schemeTold && x.client.fixed == nil && x.req.Method != http.MethodConnect {
		return errNoScheme
	}
	return nil
}
