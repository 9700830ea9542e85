package mitm

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// Of HTTP/2 connections that are idle only so many are kept, as of others.
func TestHTTP2OriginsIdle(t *testing.T) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{}, 8)
	s := &http.Server{Protocols: protocols, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}}
	go s.Serve(l)
	defer s.Close()
	p := new(Proxy)
	defer p.Close()
	if err := p.init(); err != nil {
		t.Fatal(err)
	}
	p.http2.most = 1
	ask := func(name string) {
		os := &origins{pool: &p.pool, dialer: &p.dialer}
		key := originKey{addr: l.Addr().String(), alpn: protoH2C, serverName: name}
		c, _, err := p.http2.get(t.Context(), &route{key: key, conn: new(Conn)}, os)
		if err != nil {
			t.Fatal(err)
		}
		req := (&http.Request{URL: &url.URL{Scheme: "http", Host: "x", Path: "/"}, Header: http.Header{}}).WithContext(context.Background())
		res, err := c.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	ask("a")
	ask("b")
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("both are kept")
	}
	ask("a")
	if n := p.http2.count.Load(); n > 2 {
		t.Errorf("%d connections", n)
	}
}
