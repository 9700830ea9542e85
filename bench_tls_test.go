package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// benchOrigin answers every request with a few bytes, over TLS. That for HTTP/1 allocates
// nothing, that for HTTP/2 is net/http's.
func benchOrigin(b testing.TB, version int) (addr string, roots *x509.CertPool) {
	if version == 2 {
		content := []byte("0123456789abcdef")
		return handlerOrigin(b, 2, func(w http.ResponseWriter, req *http.Request) {
			w.Header()["Content-Type"] = []string{"text/plain"}
			w.Write(content)
		})
	}
	cert, roots := exampleCert()
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	response := fixedResponse(16)
	return origin(b, func(c *peer) {
		c.SetDeadline(time.Time{})
		answerEach(tls.Server(c.Conn, config), headEnd, response)
	}), roots
}

// interceptor is a proxy with a CA, whose certificate is in roots, in front of the origin at addr.
func interceptor(tb testing.TB, addr string, originRoots *x509.CertPool, hooks ...mitm.Hook) (p *mitm.Proxy, roots *x509.CertPool) {
	ca, err := mitm.NewCA("bench")
	if err != nil {
		tb.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	return &mitm.Proxy{CA: ca, Hooks: hooks, Dial: dialTo(addr), OriginTLS: &tls.Config{RootCAs: originRoots}}, roots
}

// tunnelTLS connects through a tunnel for host and speaks TLS inside.
func tunnelTLS(b testing.TB, proxy, host string, config *tls.Config) *tls.Conn {
	nc := benchConn(b, proxy)
	tunnel(&peer{Conn: nc, t: b}, host+":443")
	config = config.Clone()
	config.ServerName = host
	tc := tls.Client(nc, config)
	if err := tc.Handshake(); err != nil {
		b.Fatal(err)
	}
	return tc
}

// One request after the other on a connection that was opened before.
func BenchmarkIntercepted(b *testing.B) {
	for version := 1; version <= 2; version++ {
		for _, hooks := range [][]mitm.Hook{nil, settingHooks()} {
			b.Run(fmt.Sprintf("HTTP%d/hooks=%d", version, len(hooks)), func(b *testing.B) {
				addr, originRoots := benchOrigin(b, version)
				p, roots := interceptor(b, addr, originRoots, hooks...)
				proxy := start(b, p)
				if version == 1 {
					nc := tunnelTLS(b, proxy, "example.com", &tls.Config{RootCAs: roots})
					exchanges(b, nc, benchRequest("/path?query", "example.com"))
				} else {
					benchHTTP2(b, tunnelTLS(b, proxy, "example.com", &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}))
				}
			})
		}
	}
}

// benchHTTP2 allocates in the client, too: about 10 times for a request.
func benchHTTP2(b *testing.B, nc *tls.Conn) {
	c := newH2Peer(b, nc, true)
	b.ReportAllocs()
	for b.Loop() {
		s := c.get(":path", "/path?query", "user-agent", "bench", "accept", "*/*")
		if s.outcome() != "200" {
			b.Fatal(s.outcome())
		}
		delete(c.streams, s.id)
	}
}

// A connection to the proxy, CONNECT, TLS in the tunnel, and one request, which a hook
// answers: no origin can be reached.
func BenchmarkHandshake(b *testing.B) {
	ca, err := mitm.NewCA("bench")
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	proxy := start(b, &mitm.Proxy{
		CA:   ca,
		Dial: func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED },
		Hooks: []mitm.Hook{mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return text(http.StatusNoContent, ""), nil
		})},
	})
	run := func(name string, config *tls.Config, host func(n int) string, resumed bool) {
		b.Run(name, func(b *testing.B) {
			tunnelOnce(b, proxy, host(0), config)
			b.ReportAllocs()
			for n := 1; b.Loop(); n++ {
				if state := tunnelOnce(b, proxy, host(n), config); state.DidResume != resumed {
					b.Fatalf("resumed: %v", state.DidResume)
				}
			}
		})
	}
	same := func(int) string { return "example.com" }
	run("cached", &tls.Config{RootCAs: roots}, same, false)
	fresh := 0
	run("fresh", &tls.Config{RootCAs: roots}, func(int) string { fresh++; return fmt.Sprintf("h%d.example.com", fresh) }, false)
	run("resumed", &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(0)}, same, true)
}

// tunnelOnce makes one connection and one request, so that a session ticket arrives.
func tunnelOnce(b *testing.B, proxy, host string, config *tls.Config) tls.ConnectionState {
	c := tunnelTLS(b, proxy, host, config)
	defer c.Close()
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	if _, err := io.Copy(io.Discard, c); err != nil {
		b.Fatal(err)
	}
	return c.ConnectionState()
}
