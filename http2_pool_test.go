package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/mitm"
)

// An origin that speaks HTTP/2 no more costs a request that had begun, and nothing else.
func TestHTTP2Origin_TurnsToHTTP1(t *testing.T) {
	cert, roots := exampleCert()
	var conns atomic.Int32
	config := &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		protocol := "http/1.1"
		if conns.Add(1) == 1 {
			protocol = "h2"
		}
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}}, nil
	}}
	addr, _ := tlsOrigin(t, config, func(tc *tls.Conn) {
		if tc.ConnectionState().NegotiatedProtocol == "http/1.1" {
			answerTLS(tc, ok200)
			return
		}
		c := newH2Peer(t, tc, false)
		c.answer(c.accept(), "ok")
		c.accept() // and dies of it
	}, nil)
	log := new(records)
	c := intercept(t, &mitm.Proxy{Logger: log.logger()}, addr, roots).h2()
	for _, want := range []string{"200", "502", "200"} {
		if s := c.wait(c.get(":authority", "example.com")); valueOf(s.head, ":status") != want {
			t.Errorf("%s, want %s", s.outcome(), want)
		}
	}
	if log.count() > 0 {
		t.Error("something panicked")
	}
}

// So does one that begins to speak HTTP/2, and nothing else.
func TestHTTP2Origin_TurnsToHTTP2(t *testing.T) {
	cert, roots := exampleCert()
	with := func(protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols}
	}
	var conns atomic.Int32
	http2 := onlyHTTP2(with("h2"))
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if conns.Add(1) == 1 {
			return with(), nil
		}
		return http2.GetConfigForClient(hello)
	}}
	addr, _ := tlsOrigin(t, config, func(tc *tls.Conn) {
		if tc.ConnectionState().NegotiatedProtocol == "" {
			answerTLS(tc, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
			return
		}
		c := newH2Peer(t, tc, false)
		c.answer(c.accept(), "ok")
		c.accept()
	}, nil)
	c := intercept(t, new(mitm.Proxy), addr, roots).h2()
	for _, want := range []string{"200", "502", "200"} {
		c.want(c.get(), want)
	}
}

// http1Answers is an origin that speaks HTTP/1.1 and answers every request; protocols are those of
// its ALPN, if it has that. It counts the connections whose handshake succeeds.
func http1Answers(t *testing.T, protocols ...string) (addr string, roots *x509.CertPool, conns *atomic.Int32) {
	conns = new(atomic.Int32)
	addr, roots = tlsOrigin(t, &tls.Config{NextProtos: protocols}, func(tc *tls.Conn) {
		conns.Add(1)
		c := newPeer(t, tc)
		for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
			c.send(ok200)
		}
	}, nil)
	return addr, roots, conns
}

// Requests that come by HTTP/2, one after the other, share a connection to an origin of HTTP/1.
func TestHTTP2Origin_ReusesHTTP1(t *testing.T) {
	for name, protocols := range map[string][]string{"no ALPN": nil, "ALPN": {"http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				addr, roots, conns := http1Answers(t, protocols...)
				c := intercept(t, p, addr, roots).h2()
				for range 10 {
					c.want(c.get(), "200")
				}
				if n := conns.Load(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

// Credentials that authenticate a connection leave it to its client, who gets it again.
func TestHTTP2Origin_BoundHTTP1(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, roots, conns := http1Answers(t)
		i := intercept(t, p, addr, roots)
		for client := range int32(2) {
			c := i.h2()
			for range 3 {
				c.want(c.get("authorization", "NTLM abc"), "200")
			}
			if n := conns.Load(); n != client+1 {
				t.Errorf("%d connections of %d clients", n, client+1)
			}
		}
	})
}

// Where an origin is known to speak HTTP/1, requests of several clients do not wait for each
// other's dials.
func TestHTTP2Origin_DialsHTTP1AtOnce(t *testing.T) {
	const clients, each = 2, 4
	var arrived, dials atomic.Int32
	var counting atomic.Bool
	allArrived, allDial := make(chan struct{}), make(chan struct{})
	addr, roots := h1Origin(t, func(c *peer) {
		for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
			if counting.Load() {
				if arrived.Add(1) == clients*each {
					close(allArrived)
				}
				<-allArrived // or a connection might be used twice
			}
			c.send(ok200)
		}
	})
	i := interceptBy(t, &mitm.Proxy{DialTimeout: patience / 2}, func(ctx context.Context, network, _ string) (net.Conn, error) {
		if counting.Load() {
			if dials.Add(1) == clients*(each-1) { // each client has left one connection idle
				close(allDial)
			}
			select {
			case <-allDial:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return dialTo(addr)(ctx, network, "")
	}, roots)
	var peers []*h2peer
	for range clients {
		peers = append(peers, i.h2())
	}
	for _, c := range peers {
		c.want(c.get(), "200")
	}
	counting.Store(true)
	for _, c := range peers {
		for range each {
			c.begin(true)
		}
	}
	for _, c := range peers {
		for _, s := range c.streams {
			c.want(s, "200")
		}
	}
}

// A connection that was dialled for a client before it asked for anything may be closed when it
// does.
func TestHTTP2Origin_ClosedBeforeFirstRequest(t *testing.T) {
	for name, protocols := range map[string][]string{"HTTP1": nil, "HTTP2": {"h2"}} {
		t.Run(name, func(t *testing.T) {
			var conns atomic.Int32
			closed := make(chan struct{})
			addr, roots := tlsOrigin(t, &tls.Config{NextProtos: protocols}, func(tc *tls.Conn) {
				switch {
				case conns.Add(1) == 1:
					tc.Close()
					close(closed)
				case protocols == nil:
					answerTLS(tc, ok200)
				default:
					c := newH2Peer(t, tc, false)
					c.answer(c.accept(), "ok")
					c.accept()
				}
			}, nil)
			i := intercept(t, new(mitm.Proxy), addr, roots)
			tc := i.tls("h2")
			receive(t, closed)
			c := newH2Peer(t, tc, true)
			c.want(c.get(":authority", "example.com"), "200")
		})
	}
}

// Streams that wait for the same connection share its failure.
func TestHTTP2Origin_FailsOnceForAll(t *testing.T) {
	const streams = 8
	var dials atomic.Int32
	var asked atomic.Int32
	all := make(chan struct{})
	p := &mitm.Proxy{CA: newCA(t), Hooks: []mitm.Hook{mitm.OnRequest(func(*http.Request) (*http.Response, error) {
		if asked.Add(1) == streams {
			close(all)
		}
		return nil, nil
	})}}
	p.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		if dials.Add(1) > 1 { // the first is that of the handshake
			<-all
			<-ctx.Done()
		}
		return nil, errors.New("no way")
	}
	p.DialTimeout = 300 * time.Millisecond
	conn := connect(t, start(t, p), "site.test:443", "")
	tc := tls.Client(conn.Conn, &tls.Config{ServerName: "site.test", RootCAs: poolOf(p.CA.Certificate()), NextProtos: []string{"h2"}})
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c := newH2Peer(t, tc, true)
	for range streams {
		c.begin(true, ":authority", "site.test")
	}
	for _, s := range c.streams {
		c.wait(s)
	}
	if n := dials.Load(); n > streams/2 {
		t.Errorf("%d dials for %d streams", n, streams)
	}
}

// A request that ran into a timeout is not repeated, and a connection that has fallen silent is
// not used for others.
func TestHTTP2Origin_Silent(t *testing.T) {
	var conns, requests atomic.Int32
	addr, roots := h2Origin(t, func(c *h2peer) {
		first := conns.Add(1) == 1
		for s := c.accept(); s != nil; s = c.accept() {
			if requests.Add(1); !first || s.id == 1 {
				c.answer(s, "ok")
			}
		}
	})
	c := intercept(t, &mitm.Proxy{ResponseTimeout: 200 * time.Millisecond}, addr, roots).h2()
	for _, want := range []string{"200", "504", "200"} {
		if s := c.wait(c.get(":authority", "example.com")); valueOf(s.head, ":status") != want {
			t.Errorf("%s, want %s", s.outcome(), want)
		}
	}
	if n := requests.Load(); n != 3 {
		t.Errorf("the origin got %d requests", n)
	}
}

// Streams of several clients do not take a connection's whole window: there is another one.
func TestHTTP2Origin_StreamsPerConnection(t *testing.T) {
	const each, most = 150, 250
	arrived, free := make(chan string, 2*each), make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/first" { // makes sure that the limit of the origin is known
			return
		}
		arrived <- req.RemoteAddr
		<-free
	}))
	s.EnableHTTP2 = true
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000}
	s.StartTLS()
	defer s.Close()
	i := intercept(t, new(mitm.Proxy), s.Listener.Addr().String(), poolOf(s.Certificate()))
	clients := []*h2peer{i.h2(), i.h2()}
	for _, c := range clients {
		c.want(c.get(":authority", "example.com", ":path", "/first"), "200")
	}
	for _, c := range clients {
		for range each {
			c.begin(true, ":authority", "example.com")
		}
	}
	from := map[string]int{}
	for range 2 * each {
		from[receive(t, arrived)]++
	}
	close(free)
	for addr, n := range from {
		if n > most {
			t.Errorf("%d streams on %s", n, addr)
		}
	}
	for _, c := range clients {
		for _, s := range c.streams {
			c.wait(s)
		}
	}
}

// What a hook has left running ends with the exchange, whatever the context of its request.
func TestHTTP2Hooks_LeaveRoundTrip(t *testing.T) {
	for version := 1; version <= 2; version++ {
		for name, change := range map[string]func(context.Context) context.Context{
			"own": context.WithoutCancel,
			"its": func(ctx context.Context) context.Context { return ctx },
		} {
			t.Run(fmt.Sprintf("HTTP%d %s", version, name), func(t *testing.T) {
				arrived := make(chan struct{}, 1)
				addr, roots := handlerOrigin(t, version, func(_ http.ResponseWriter, req *http.Request) {
					arrived <- struct{}{}
					<-req.Context().Done()
				})
				p := &mitm.Proxy{Hooks: []mitm.Hook{wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
					go next.RoundTrip(req.WithContext(change(req.Context())))
					<-arrived
					return text(203, "mine"), nil
				})}}
				c := intercept(t, p, addr, roots).h2()
				c.want(c.get(":authority", "example.com"), "203")
			})
		}
	}
}

// Content that is shorter than a hook said is not passed off as whole.
func TestHTTP2Hooks_ShortContent(t *testing.T) {
	addr, roots := handlerOrigin(t, 2, func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	for outcome, hook := range map[string]wrapping{
		"502": func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader("short")), 10
			return next.RoundTrip(req)
		},
		"cut": func(http.RoundTripper, *http.Request) (*http.Response, error) {
			res := text(200, "short")
			res.ContentLength = 10
			return res, nil
		},
	} {
		done, flows := doneHook()
		c := intercept(t, &mitm.Proxy{Hooks: []mitm.Hook{done, hook}}, addr, roots).h2()
		if s := c.wait(c.get(":authority", "example.com")); !strings.HasPrefix(s.outcome(), outcome) {
			t.Errorf("%s, want %s", s.outcome(), outcome)
		}
		if f := flowOf(t, flows, "https://example.com/"); f.Err == nil {
			t.Error("the flow has no error")
		}
	}
}

// Credentials for the proxy are not shown to hooks, and not to a transport that would send them.
func TestHTTP2_ProxyAuthorization(t *testing.T) {
	seen := make(chan http.Header, 1)
	p := &mitm.Proxy{
		Mode: mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"a": "b"})},
		Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			seen <- req.Header
			return text(200, "ok"), nil
		}),
	}
	c := newH2Peer(t, startSecure(t, p, "h2")(), true)
	c.want(c.raw(true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "example.com", "proxy-authorization", "Basic YTpi"), "200")
	if got := (<-seen).Get("Proxy-Authorization"); got != "" {
		t.Errorf("the transport got %q", got)
	}
}

// A tunnel ends after its idle time also if the client takes nothing from it.
func TestHTTP2_ConnectStandsStill(t *testing.T) {
	addr := origin(t, func(c *peer) {
		for b := make([]byte, 64<<10); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	done, flows := doneHook()
	c := newH2Peer(t, startSecure(t, &mitm.Proxy{TunnelTimeout: 300 * time.Millisecond, Hooks: []mitm.Hook{done}}, "h2")(), true)
	s := c.connect(addr)
	s.stalled = true
	if f := nextFlow(t, flows); f.Err == nil {
		t.Error("the flow has no error")
	}
	if c.wait(s); s.reset == nil {
		t.Errorf("the tunnel ended as %s", s.outcome())
	}
}

// A connection that is bound to a client ends with it, also where the client has named so many
// destinations meanwhile that this one is forgotten.
func TestHTTP2_ForgottenRoute(t *testing.T) {
	const destinations = 70
	hold := make(chan struct{})
	arrived, ended := make(chan struct{}, 1), make(chan error, 1)
	slow := origin(t, func(c *peer) {
		c.head()
		arrived <- struct{}{}
		<-hold
		c.send(ok200)
		_, err := c.rest()
		ended <- err
	})
	fast := origin(t, func(c *peer) {
		for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
			c.send(ok200)
		}
	})
	p := &mitm.Proxy{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr == "slow.test:80" {
			return dialTo(slow)(ctx, network, addr)
		}
		return dialTo(fast)(ctx, network, addr)
	}}
	c := newH2Peer(t, startSecure(t, p, "h2")(), true)
	get := func(host string) *h2stream {
		return c.raw(true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", host, "authorization", "NTLM abc")
	}
	s := get("slow.test")
	receive(t, arrived)
	for i := range destinations {
		c.want(get(fmt.Sprintf("h%d.test", i)), "200")
	}
	close(hold)
	c.want(s, "200")
	c.nc.Close()
	if err := receive(t, ended); err != nil {
		t.Errorf("the connection does not end: %v", err)
	}
}

// An early answer to a client of HTTP/1 leaves the rest of the content to an origin that speaks
// HTTP/2 only and still reads it.
func TestHTTP1Client_EarlyAnswerOfHTTP2(t *testing.T) {
	cert, roots := exampleCert()
	http2 := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	nothing := http2.Clone()
	nothing.NextProtos = []string{"none of these"} // crypto/tls itself would let HTTP/1 in
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, "h2") {
			return http2, nil
		}
		return nothing, nil
	}}
	got := make(chan string, 1)
	addr, _ := tlsOrigin(t, config, func(tc *tls.Conn) {
		c := newH2Peer(t, tc, false)
		if s := c.accept(); s != nil {
			c.headers(s.id, false, ":status", "200")
			c.until(s.over)
			got <- s.body.String()
			c.data(s.id, true, "done")
			c.accept()
		}
	}, nil)
	i := intercept(t, new(mitm.Proxy), addr, roots)
	tc := i.tls("http/1.1")
	c := &peer{tc, t, bufio.NewReader(tc)}
	c.send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.send("5\r\nsecon\r\n0\r\n\r\n")
	if content := receive(t, got); content != "firstsecon" {
		t.Errorf("the origin got %q", content)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "done" || err != nil {
		t.Errorf("the client got %q, %v", b, err)
	}
}

// A hook that takes its time for one destination does not hold up streams for another.
func TestHTTP2_SlowConnHook(t *testing.T) {
	addr := origin(t, func(c *peer) {
		c.head()
		c.send(ok200)
	})
	asked, free := make(chan struct{}), make(chan struct{})
	p := &mitm.Proxy{Dial: dialTo(addr), Hooks: []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.Destination.Addr == "slow.test:80" {
			close(asked) // once
			<-free
		}
		return mitm.Default, nil
	})}}
	c := newH2Peer(t, startSecure(t, p, "h2")(), true)
	get := func(host string) *h2stream {
		return c.raw(true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", host)
	}
	slow := []*h2stream{get("slow.test"), get("slow.test")}
	<-asked
	c.want(get("fast.test"), "200")
	close(free)
	for _, s := range slow {
		c.want(s, "200")
	}
}
