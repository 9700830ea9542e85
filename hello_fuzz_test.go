package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// helloOf is what crypto/tls makes of a ClientHello.
func helloOf(b []byte) (info *tls.ClientHelloInfo) {
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		info = hello
		return nil, errors.New("seen")
	}}
	tls.Server(readOnly{strings.NewReader(string(b))}, config).Handshake()
	return info
}

// readOnly is a connection to nobody.
type readOnly struct{ io.Reader }

func (readOnly) Write(b []byte) (int, error)      { return len(b), nil }
func (readOnly) Close() error                     { return nil }
func (readOnly) LocalAddr() net.Addr              { return memAddr() }
func (readOnly) RemoteAddr() net.Addr             { return memAddr() }
func (readOnly) SetDeadline(time.Time) error      { return nil }
func (readOnly) SetReadDeadline(time.Time) error  { return nil }
func (readOnly) SetWriteDeadline(time.Time) error { return nil }

// FuzzClientHello sends anything to a proxy that opens TLS, in pieces of any size. A hook that
// decides for a tunnel at last has a view of the ClientHello that fits the bytes, and
// all arrives as it was sent.
func FuzzClientHello(f *testing.F) {
	hello := smallHello("site.test", "h2", "http/1.1")
	for _, seed := range []string{
		"", "\x16", "\x16\x03\x01", hello, hello + "\x17\x03\x03\x00\x05early", hello[:len(hello)-1], inRecords(hello, 1), inRecords(hello, 3, 1, 99),
		smallHello(""), smallHello("192.0.2.1", "mqtt"), smallHello("-", ""), handshakeOf(1, 40), handshakeOf(2, 4), "\x16\x03\x01\x00\x00" + hello,
		inRecords(hello, 9) + "\x15\x03\x01\x00\x02\x01\x00", hello + hello, "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(seed), []byte{0})
		f.Add([]byte(seed), []byte{1, 2, 50})
	}
	ca := newCA(f)
	f.Fuzz(func(t *testing.T, sent, sizes []byte) {
		synctest.Test(t, func(t *testing.T) { fuzzHello(t, ca, sent, sizes) })
	})
}

func fuzzHello(t *testing.T, ca *mitm.CA, sent, sizes []byte) {
	client, server := memPipe()
	near, far := memPipe()
	var seen *mitm.Conn
	p := &mitm.Proxy{CA: ca, Mode: fixed(mitm.Destination{Addr: "origin.test:443"})}
	p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
	p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.Protocol == mitm.Unknown {
			return mitm.Default, nil
		}
		seen = c
		return mitm.Tunnel, nil
	})}
	served := make(chan error, 1)
	go func() { served <- p.ServeConn(t.Context(), server) }()
	go sendPieces(client, sent, sizes)
	if got, err := io.ReadAll(far); string(got) != string(sent) || err != nil {
		t.Errorf("the origin got %q, %v; want %q", got, err, sent)
	}
	far.Close()
	io.Copy(io.Discard, client)
	client.Close()
	<-served
	p.Close()
	if seen != nil {
		checkHello(t, seen, sent)
	}
}

// sendPieces sends b in pieces of these sizes, in turn, and an end.
func sendPieces(c *memConn, b, sizes []byte) {
	for i := 0; len(b) > 0; i++ {
		n := len(b)
		if len(sizes) > 0 && sizes[i%len(sizes)] > 0 {
			n = min(n, int(sizes[i%len(sizes)]))
		}
		c.Write(b[:n])
		b = b[n:]
	}
	c.CloseWrite()
}

func checkHello(t *testing.T, c *mitm.Conn, sent []byte) {
	raw := c.RawClientHello
	if (c.Protocol == mitm.TLS) != (c.ClientHello != nil) || (c.ClientHello == nil) != (raw == nil) {
		t.Fatalf("%v with %+v and %d bytes", c.Protocol, c.ClientHello, len(raw))
	}
	if c.ClientHello == nil {
		return
	}
	again := helloOf(raw)
	switch {
	case !strings.HasPrefix(string(sent), string(raw)):
		t.Errorf("%q is not what was sent", raw)
	case again == nil: // it is none that crypto/tls reads
	case strings.ToLower(strings.TrimSuffix(again.ServerName, ".")) != c.ServerName || !slices.Equal(again.SupportedProtos, c.ClientHello.SupportedProtos):
		t.Errorf("%q %q, want %q %q", c.ServerName, c.ClientHello.SupportedProtos, again.ServerName, again.SupportedProtos)
	case helloOf(raw[:len(raw)-1]) != nil:
		t.Errorf("%q is more than the ClientHello", raw)
	}
}
