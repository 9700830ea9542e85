package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"

	"example.com/mitm"
)

// entry is a way of clients to site.test.
type entry struct {
	name string
	mode mitm.Mode
	addr string // what is dialled
	open func(t testing.TB, proxy, early string) *peer
}

var entries = []entry{
	{"CONNECT", nil, "site.test:443", func(t testing.TB, proxy, early string) *peer { return connect(t, proxy, "site.test:443", early) }},
	{"SOCKS5", nil, "site.test:443", func(t testing.TB, proxy, early string) *peer { return socksTo(t, proxy, "site.test:443", early) }},
	{"transparent", mitm.Transparent{Lookup: lookup(transparentAddr.String())}, transparentAddr.String(),
		func(t testing.TB, proxy, early string) *peer {
			c := dial(t, proxy)
			c.send(early)
			return c
		}},
}

func eachEntry(t *testing.T, f func(t *testing.T, e entry)) {
	t.Helper()
	for _, e := range entries {
		t.Run(e.name, func(t *testing.T) { f(t, e) })
	}
}

// openedSite is site.test, and a proxy to it that opens TLS. Whoever starts the proxy may change it
// before.
type openedSite struct {
	*farm
	e entry
	p *mitm.Proxy
}

// newSite has an HTTPS server, with the certificate of the farm's root.
func newSite(t *testing.T, e entry) *openedSite {
	t.Helper()
	s := newRawSite(t, e, "")
	s.serve("site.test", &tls.Config{Certificates: []tls.Certificate{s.root.leaf("site.test", newKey(t), nil)}})
	s.addrs[transparentAddr.Addr().String()] = s.addrs["site.test"]
	return s
}

// newRawSite has whatever is at addr.
func newRawSite(t *testing.T, e entry, addr string) *openedSite {
	t.Helper()
	f := newFarm(t)
	f.addrs["site.test"], f.addrs[transparentAddr.Addr().String()] = addr, addr
	return &openedSite{f, e, &mitm.Proxy{Mode: e.mode, CA: newCA(t), Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}}}
}

// trusting is a configuration of clients that trust the proxy's CA, or, without one, origins.
func (s *openedSite) trusting(protocols ...string) *tls.Config {
	roots := s.root.pool()
	if s.p.CA != nil {
		roots = poolOf(s.p.CA.Certificate())
	}
	return &tls.Config{ServerName: "site.test", RootCAs: roots, NextProtos: protocols}
}

// helloConn is a client's connection that send begins, with the whole ClientHello in hand.
type helloConn struct {
	net.Conn
	send  func(hello string) *peer
	p     *peer // nil before that
	hello []byte
}

func (c *helloConn) Write(b []byte) (int, error) {
	if c.p != nil {
		return c.Conn.Write(b)
	}
	c.hello = append(c.hello, b...)
	if wholeHello(c.hello) {
		c.p = c.send(string(c.hello))
		c.Conn = c.p.Conn
	}
	return len(b), nil
}

func (c *helloConn) Read(b []byte) (int, error) { return c.p.r.Read(b) }

// wholeHello reports whether records hold a handshake message to its end.
func wholeHello(records []byte) bool {
	var message []byte
	for len(records) >= 5 {
		n := int(records[3])<<8 + int(records[4])
		message = append(message, records[5:][:n]...)
		records = records[5+n:]
	}
	return len(message) >= 4 && len(message)-4 >= int(message[1])<<16+int(message[2])<<8+int(message[3])
}

// speak makes a TLS connection through the proxy. The ClientHello goes out with whatever asks
// for the connection. It is returned, too.
func (s *openedSite) speak(t testing.TB, proxy string, config *tls.Config) (c *tls.Conn, hello []byte, err error) {
	t.Helper()
	hc := &helloConn{send: func(hello string) *peer { return s.e.open(t, proxy, hello) }}
	c = tls.Client(hc, config)
	err = c.Handshake()
	return c, hc.hello, err
}

// mustSpeak is speak for a handshake that succeeds.
func (s *openedSite) mustSpeak(t testing.TB, proxy string, config *tls.Config) *tls.Conn {
	t.Helper()
	c, _, err := s.speak(t, proxy, config)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return c
}

// askTLS makes a request on c and returns the content of the response.
func askTLS(t testing.TB, c *tls.Conn, path string) string {
	t.Helper()
	io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: site.test\r\n\r\n")
	_, body := (&peer{c, t, bufio.NewReader(c)}).response("GET")
	return body
}

// inRecords puts the handshake messages of records into records of other sizes, in turn; the
// last is for the rest.
func inRecords(records string, sizes ...int) string {
	var message, out string
	version := records[1:3]
	for len(records) >= 5 {
		n := int(records[3])<<8 + int(records[4])
		message += records[5:][:n]
		records = records[5+n:]
	}
	for i := 0; message != ""; i++ {
		n := min(sizes[min(i, len(sizes)-1)], len(message))
		out += "\x16" + version + string([]byte{byte(n >> 8), byte(n)}) + message[:n]
		message = message[n:]
	}
	return out
}

// recorder is an origin that sends what it got, to the end, to the channel, and answers with
// the same.
func recorder(t testing.TB) (addr string, ends chan string) {
	ends = make(chan string, 1<<16)
	addr = origin(t, func(c *peer) {
		var got strings.Builder
		_, err := io.Copy(io.MultiWriter(&got, c.Conn), c.r)
		if err != nil {
			got.WriteString(" cut")
		}
		ends <- got.String()
	})
	return addr, ends
}

// shutdown fails the test unless p is through with all its connections.
func shutdown(t *testing.T, p *mitm.Proxy) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("there are connections left: %v", err)
	}
}

// smallHello is a ClientHello for TLS 1.2 and TLS 1.3 (RFC 8446, section 4.1.2) that is the
// same each time. Its key share is no good.
func smallHello(name string, protocols ...string) string {
	block := func(size int, parts ...string) string { // with its length in front
		b := strings.Join(parts, "")
		return string([]byte{byte(len(b) >> 16), byte(len(b) >> 8), byte(len(b))}[3-size:]) + b
	}
	extension := func(kind string, content string) string { return "\x00" + kind + block(2, content) }
	var names []string
	for _, p := range protocols {
		names = append(names, block(1, p))
	}
	extensions := extension("\x0a", block(2, "\x00\x1d\x00\x17")) + // supported_groups: x25519, secp256r1
		extension("\x0d", block(2, "\x04\x03\x08\x04\x04\x01")) + // signature_algorithms
		extension("\x2b", block(1, "\x03\x04\x03\x03")) + // supported_versions
		extension("\x33", block(2, "\x00\x1d"+block(2, strings.Repeat("k", 32)))) // key_share
	if name != "" {
		extensions += extension("\x00", block(2, "\x00"+block(2, name)))
	}
	if len(names) > 0 {
		extensions += extension("\x10", block(2, names...))
	}
	message := "\x01" + block(3, "\x03\x03", strings.Repeat("r", 32), block(1, ""), block(2, "\x13\x01\xc0\x2b\xc0\x2f"), block(1, "\x00"),
		block(2, extensions))
	return "\x16\x03\x01" + block(2, message)
}
