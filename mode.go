package mitm

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Mode finds out where the client of a connection wants to go. What the bytes on the
// connection are is found out afterwards, the same way in every mode.
//
// [Explicit], [Transparent] and [Reverse] are modes; others can be written. A mode is
// called by many goroutines at once.
type Mode interface {
	// Destination is called once for every accepted connection, before anything is
	// read from it. It may talk to the client through c; what it does not read stays in
	// c for what comes next. Reads and writes on c fail after [Proxy.HeadTimeout]; ctx
	// ends only when the connection is cut, so anything else that may wait needs a limit of
	// its own. An error closes the connection with a reset and is in [Flow.Err]; io.EOF
	// itself closes it quietly.
	Destination(ctx context.Context, c *Conn) (Destination, error)
}

// Destination is where a connection goes. If Addr is empty the connection has none of its
// own: each HTTP request on it names one, and the other fields have no effect.
type Destination struct {
	// Addr is what is dialled, host:port.
	Addr string
	// TLS starts TLS towards Addr. It is set where the client's own TLS is terminated, unless the
	// mode says what the origin speaks.
	TLS bool
	// OriginTLS, if not nil, is used towards Addr in place of [Proxy.OriginTLS]: to verify this
	// origin by other rules, or to show it a certificate. It must not be modified afterwards.
	// Origin connections are pooled per *tls.Config pointer; sessions are resumed only if it has
	// a ClientSessionCache.
	OriginTLS *tls.Config
	// Host, if not empty, becomes the Host field of HTTP requests, and the name that
	// the origin's certificate must have. Empty: requests keep the client's Host, and the
	// certificate must have the name that the client's TLS asked for, or else that of Addr.
	Host string
	// Protocol [HTTP1] serves HTTP/1 without looking first. With any other value the protocol
	// is found out by the first bytes.
	Protocol Protocol
	// Handler, if not nil, answers requests in place of an origin: nothing is looked up or dialled,
	// and Addr, which must not be empty, is only a name. HTTPHooks are called around it; if one
	// changes URL.Host, the request goes to that host instead. Clients that do not speak HTTP, and
	// TLS for which there is no certificate, are reset, even if a [ConnHook] answers Tunnel: there
	// is no server to relay to.
	//
	// A Handler sees requests as in an http.Server, but with a complete URL, and is called by
	// several goroutines at once. The context of a request ends when its client leaves. The
	// ResponseWriter implements http.Flusher, but not http.Hijacker. A panic is logged and answered
	// with 502 (Bad Gateway), or cuts off a response that has begun; http.ErrAbortHandler has the
	// same effect as in an [HTTPHook].
	Handler http.Handler
	// DialLate postpones the look-up and the connection until a request, or a protocol that is only
	// relayed, needs them. The client's TLS is then terminated before the origin has chosen a
	// protocol and shown its certificate, a dial that fails is reported inside TLS, and a server
	// that speaks first is not heard before the client has spoken. [Proxy.Transport] implies
	// DialLate. If a ConnHook answers Tunnel, the origin is dialled at once all the same.
	DialLate bool
	// Protocols are those that a client may negotiate by ALPN (RFC 7301), such as "h2" and
	// "http/1.1". Other protocols that a client offers are ignored, and not offered to the origin
	// either. HTTP of a version that is not listed, which a client can begin without negotiation,
	// is refused with 505 (HTTP Version Not Supported). Nil: all; empty: none. Protocols applies to
	// connections that have a destination, of their own or by CONNECT. The slice must not be
	// modified afterwards.
	Protocols []string
	// Source, if valid, is the address to connect from, also one that is not this
	// machine's, and Mark, if not 0, the mark of the socket: see [Transparent]. They are
	// heeded if [Proxy.Dial] is nil or made by [CheckedDial].
	Source netip.Addr
	Mark   int
	// Reply, if not nil, is called once with how the dial went (nil: connected) before
	// a byte is relayed, so that a mode can answer in its own protocol. If it returns
	// an error the connection is closed. It is not called for HTTP, which has
	// answers of its own.
	Reply func(dialErr error) error

	named      string // the host that a CONNECT or SOCKS request names, see hostName; "": an address, or none
	redirected bool   // the client's own system believes that it is connected to Addr
	pages      ownPages
	// authenticate sees the Proxy-Authorization of every HTTP request where there is no
	// Addr. It is here so that a mode that makes use of another one does not lose it.
	authenticate func(ctx context.Context, credentials string) error
}

// Name returns the host of Addr in the form in which names are compared: in lower case, without a
// trailing dot; an IP address has no brackets. It is "" if Addr is empty.
func (d Destination) Name() string { return hostName(d.Addr) }

// hostName returns the host of an authority, with or without a port, in the form in which names are
// compared.
func hostName(authority string) string {
	host, _, err := net.SplitHostPort(authority)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]")
	}
	return canonicalName(host)
}

// nameOf is hostName, but "" for an address.
func nameOf(authority string) string {
	name := hostName(authority)
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	return name
}

// Conn is a client connection together with one destination that it named. A hook gets
// a new Conn each time it is asked; once the hooks have decided it does not change.
type Conn struct {
	// Destination is where the connection, or the request on it, goes. A [ConnHook]
	// may change it.
	Destination Destination
	// Protocol is what the client speaks there, [Unknown] as long as no byte was seen.
	Protocol Protocol
	// ServerName is the name that a TLS client asked for (RFC 6066, section 3), in the form of
	// [Destination.Name], "" if none. It is a name, not a route.
	ServerName string
	// ClientHello is what a TLS client said first, without its Conn, and RawClientHello the records
	// that it came in. Both are nil before that is known, and must not be changed. If crypto/tls
	// refuses the ClientHello, this is what could be read of it; such a connection can be
	// tunnelled, but not intercepted.
	ClientHello    *tls.ClientHelloInfo
	RawClientHello []byte

	s        *stream
	isOwn    func(credentials string) bool // says which the mode has asked for and got; nil: none
	nest     *nest                         // how the destination is reached
	listener net.Addr                      // where the connection was accepted; nil: not by Serve
	opaque   bool                          // TLS that can't be terminated
}

// RemoteAddr returns the client's address.
func (c *Conn) RemoteAddr() net.Addr { return c.s.nc.RemoteAddr() }

// LocalAddr returns the address that the client is connected to.
func (c *Conn) LocalAddr() net.Addr { return c.s.nc.LocalAddr() }

// NetConn returns the connection as it was accepted. It must not be read from.
func (c *Conn) NetConn() net.Conn { return c.s.given() }

// Peek returns the first n bytes or more that the client has sent and leaves them to be
// read; fewer come with an error. They are valid until the next Peek or Read. It is
// for a [Mode], before it returns.
func (c *Conn) Peek(n int) ([]byte, error) { return c.s.peek(n) }

// parse reads a message of which complete tells the length as soon as it is all there.
func (c *Conn) parse(complete func(b []byte) (n int, err error)) error {
	for need := 1; ; need++ {
		b, err := c.s.peek(need)
		if err != nil {
			return err
		}
		n, err := complete(b)
		if n > 0 {
			c.s.discard(n)
		}
		if n > 0 || err != nil {
			return err
		}
		need = max(need, len(b))
	}
}

// Read reads what the client has sent. It is for a [Mode], before it returns.
func (c *Conn) Read(p []byte) (int, error) { return c.s.Read(p) }

// Write writes to the client. It is for a [Mode], before it returns, and for
// [Destination.Reply].
func (c *Conn) Write(p []byte) (int, error) { return c.s.nc.Write(p) }

// Protocol is what the bytes of a connection are.
type Protocol uint8

const (
	// Unknown is not found out yet.
	Unknown Protocol = iota
	// HTTP1 is HTTP/1.0 or HTTP/1.1.
	HTTP1
	// HTTP2 is HTTP/2, begun by its preface.
	HTTP2
	// TLS is a ClientHello.
	TLS
	// Other is any other protocol, and a server that speaks first. It is relayed, unless a
	// [ConnHook], which is called about it even inside TLS, rejects it: see [RefuseUnread]. What a
	// lenient server might take for a request counts as HTTP1, and is answered with 400 (Bad
	// Request) if it can't be read in exactly one way.
	Other
)

// String returns the protocol's usual name.
func (p Protocol) String() string {
	return [...]string{"unknown", "HTTP/1", "HTTP/2", "TLS", "other"}[min(p, Other)]
}

// allows reports whether clients may speak a version of HTTP to d.
func (d *Destination) allows(p Protocol) bool {
	name := protoHTTP1
	if p == HTTP2 {
		name = protoHTTP2
	}
	return d.Protocols == nil || slices.Contains(d.Protocols, name)
}

// modeChecker is a mode that can tell before the first connection that it won't work.
type modeChecker interface{ check() error }

// ownPages is what is served under a host name that leads to no origin.
type ownPages struct {
	host    string
	handler http.Handler
}
