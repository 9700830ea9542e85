package mitm_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// startSecure serves p on a listener that speaks TLS and offers these protocols.
func startSecure(t *testing.T, p *mitm.Proxy, protos ...string) (connect func() *tls.Conn) {
	cert, roots := exampleCert()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() {
		served <- p.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protos}))
	}()
	t.Cleanup(func() {
		p.Close()
		<-served
	})
	return func() *tls.Conn {
		c := dial(t, l.Addr().String())
		tc := tls.Client(c.Conn, &tls.Config{ServerName: "example.com", RootCAs: roots, NextProtos: protos})
		if err := tc.Handshake(); err != nil {
			t.Fatalf("handshake: %v", err)
		}
		return tc
	}
}

// connect asks for a tunnel.
func (p *h2peer) connect(addr string, fields ...string) *h2stream {
	s := p.raw(false, append([]string{":method", "CONNECT", ":authority", addr}, fields...)...)
	p.until(func() bool { return s.head != nil || s.over() })
	return s
}

// A client that speaks HTTP/2 to the proxy has as many tunnels as it likes on one connection
// (RFC 9113, section 8.5).
func TestHTTP2_Connect(t *testing.T) {
	addr := origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		var tunnels []*h2stream
		for range 5 {
			s := c.connect(addr)
			if valueOf(s.head, ":status") != "200" || s.over() {
				t.Fatalf("CONNECT: %s, %v", s.outcome(), s.head)
			}
			tunnels = append(tunnels, s)
		}
		for round := range 3 {
			for n, s := range tunnels {
				s.body.Reset()
				c.data(s.id, false, fmt.Sprint(round, n))
			}
			for n, s := range tunnels {
				if !c.until(func() bool { return s.body.String() == fmt.Sprint(round, n) }) {
					t.Fatalf("tunnel %d: %q, %v", n, s.body.String(), c.gone)
				}
			}
		}
		big := tunnels[0]
		big.body.Reset()
		c.pour(big.id, 1<<20, false, nil)
		if !c.until(func() bool { return big.body.Len() == 1<<20 }) {
			t.Errorf("%d bytes came back", big.body.Len())
		}
		for _, s := range tunnels {
			c.data(s.id, true, "")
			c.want(s, "200")
		}
	})
}

// The end of the client's direction is passed on, and the other goes on. When the origin
// ends its own, the stream is over.
func TestHTTP2_ConnectHalfClose(t *testing.T) {
	ended := make(chan string, 8)
	clientFirst := origin(t, func(c *peer) {
		got, _ := c.rest()
		c.send("got " + got)
	})
	originFirst := origin(t, func(c *peer) {
		c.send("bye")
		c.Conn.(*net.TCPConn).CloseWrite()
		got, _ := c.rest()
		ended <- got
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		s := c.connect(clientFirst)
		c.data(s.id, true, "abc")
		if c.want(s, "200"); s.body.String() != "got abc" {
			t.Errorf("%q", s.body.String())
		}
		if f := nextFlow(t, flows); !f.Tunnel || f.Err != nil || f.Method != "CONNECT" || f.Sent() != 3 || f.Received() != 7 {
			t.Errorf("flow: tunnel %v, %v, %s, %d and %d bytes", f.Tunnel, f.Err, f.Method, f.Sent(), f.Received())
		}
		s = c.connect(originFirst)
		if c.want(s, "200"); s.body.String() != "bye" {
			t.Errorf("%q", s.body.String())
		}
		receive(t, ended)
		if f := nextFlow(t, flows); f.Err != nil || f.Received() != 3 {
			t.Errorf("flow: %v, %d bytes", f.Err, f.Received())
		}
	})
}

// A reset on either side is one on the other.
func TestHTTP2_ConnectReset(t *testing.T) {
	ends := make(chan error, 8)
	waits := origin(t, func(c *peer) {
		c.send("x")
		_, err := c.rest()
		ends <- err
	})
	resets := origin(t, func(c *peer) {
		c.read(1)
		c.Conn.(*net.TCPConn).SetLinger(0)
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		s := c.connect(waits)
		c.until(func() bool { return s.body.Len() > 0 })
		c.cancel(s, codeCancel)
		if err := receive(t, ends); err == nil {
			t.Error("a reset of the client's looks like an end")
		}
		s = c.connect(resets)
		c.data(s.id, false, "x")
		c.want(s, "cut 200")
	})
}

// What can't be had is told by a status, and costs no other stream.
func TestHTTP2_ConnectRefused(t *testing.T) {
	addr := origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
	closed := origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		nobody := l.Addr().String()
		l.Close()
		p.Mode = mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"a": "b"})}
		const auth, credentials = "proxy-authorization", "Basic YTpi"
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		good := c.connect(addr, auth, credentials)
		for _, test := range []struct {
			addr    string
			fields  []string
			outcome string
		}{
			{nobody, []string{auth, credentials}, "502"},
			{closed, nil, "407"},
			{closed, []string{auth, "Basic YTpj"}, "407"},
			{"example.com", []string{auth, credentials}, "400"},
			{"example.com:0x50", []string{auth, credentials}, "400"},
			{"example.com:443/x", []string{auth, credentials}, "400"},
		} {
			s := c.connect(test.addr, test.fields...)
			if c.until(s.over); s.outcome() != test.outcome && (test.outcome != "400" || s.outcome() != "reset") {
				t.Errorf("%s with %q: %s, want %s", test.addr, test.fields, s.outcome(), test.outcome)
			}
		}
		c.data(good.id, true, "abc")
		if c.want(good, "200"); good.body.String() != "abc" {
			t.Errorf("%q", good.body.String())
		}
	})
}

// Requests for plain origins pass by HTTP/2, too.
func TestHTTP2_Forward(t *testing.T) {
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		s := c.get(":scheme", "http", ":authority", addr, ":path", "/a?q", "x-a", "1", "proxy-authorization", "Basic YTpi")
		if c.want(s, "200"); s.body.String() != "ok" {
			t.Errorf("%q", s.body.String())
		}
		head := receive(t, heads)
		if !strings.HasPrefix(head, "GET /a?q HTTP/1.1\r\n") || len(fieldsOf(head)["host"]) != 1 || fieldsOf(head)["host"][0] != addr ||
			fieldsOf(head)["x-a"] == nil || fieldsOf(head)["proxy-authorization"] != nil {
			t.Errorf("the origin got %q", head)
		}
	})
}

// With a CA what is inside such a tunnel is opened like any other.
func TestHTTP2_ConnectIntercepted(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		i := newInterception(t, p, roots)
		p.Dial = dialTo(addr)
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		s := c.connect("example.com:443")
		inner, outer := memPipe()
		go c.join(s, outer)
		inner.SetDeadline(time.Now().Add(patience))
		tc := tls.Client(inner, &tls.Config{ServerName: "example.com", RootCAs: i.roots, NextProtos: []string{"h2"}})
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		in := newH2Peer(t, tc, true)
		in.want(in.get(":path", "/inside"), "200")
		if got := receive(t, seen); got.path != "/inside" {
			t.Errorf("the origin got %+v", got)
		}
		inner.Close()
	})
}

// join carries bytes between a tunnel and nc, until nc ends. It uses p from two goroutines,
// which touch different things.
func (p *h2peer) join(s *h2stream, nc net.Conn) {
	go func() {
		buf := make([]byte, 8<<10)
		for {
			n, err := nc.Read(buf)
			if err != nil {
				p.nc.Close()
				return
			}
			p.frame(frameData, 0, s.id, buf[:n])
		}
	}()
	for p.step() {
		nc.Write(s.body.Next(s.body.Len()))
	}
	nc.Close()
}

// An HTTP/2 server may send its SETTINGS before it has heard of the client (RFC 9113, section
// 3.4). That is no reason to relay without looking.
func TestHTTP2_ServerFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen atomic.Int32
		p := newInterception(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			seen.Add(1)
			return nil, nil
		})}}, nil).proxy
		nc := inMemory(t, p, func(c *peer) {
			c.Conn.Write([]byte{0, 0, 6, frameSettings, 0, 0, 0, 0, 0, 0, settingMaxStreams, 0, 0, 0, 100})
			newH2Peer(t, c.Conn, false).serveAll(make(chan gotRequest, 8))
		})
		tunnel(nc, "h2c.test:80")
		synctest.Wait()
		c := newH2Peer(t, nc.Conn, true)
		c.want(c.get(":scheme", "http", ":authority", "h2c.test:80"), "200")
		if seen.Load() != 1 {
			t.Errorf("the hook saw %d requests", seen.Load())
		}
	})
}

// A secure web proxy for HTTP/1 is one more connection to it.
func TestSecureProxy_HTTP1(t *testing.T) {
	addr := origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
	web, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		connect := startSecure(t, p, "http/1.1")
		c := newPeer(t, connect())
		c.send(headTo(web, "GET", "/a"))
		c.wantStatus(http.StatusOK)
		c.send(headTo(web, "GET", "/b"))
		c.wantStatus(http.StatusOK)
		receive(t, heads)
		receive(t, heads)
		tunnel(c, addr)
		c.send("abc")
		if got := c.read(3); got != "abc" {
			t.Errorf("%q", got)
		}
		c.Conn.(*tls.Conn).CloseWrite()
		c.closed()
	})
}
