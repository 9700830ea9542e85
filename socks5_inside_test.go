package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/mitm"
)

// HTTP inside is read and hooked; where it goes was said before.
func TestSOCKSInsideHTTP(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	elsewhere, strayed := answering(t, ok200)
	done, flows := doneHook()
	seen := make(chan string, 4)
	p := &mitm.Proxy{Hooks: []mitm.Hook{done, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		seen <- req.Method + " " + req.Host + " " + mitm.FlowFromContext(req.Context()).Conn.Destination.Addr
		return nil, nil
	})}}
	c := socksTo(t, start(t, p), addr, "")
	for _, target := range []string{"/x", "http://" + elsewhere + "/x"} {
		c.send("GET " + target + " HTTP/1.1\r\nHost: " + elsewhere + "\r\n\r\n")
		c.wantStatus(200)
		if got, want := <-heads, "GET "+target+" HTTP/1.1\r\nHost: "+elsewhere+"\r\n\r\n"; got != want {
			t.Errorf("the origin got %q, want %q", got, want)
		}
		if got, want := <-seen, "GET "+elsewhere+" "+addr; got != want {
			t.Errorf("the hook saw %q, want %q", got, want)
		}
		if f := nextFlow(t, flows); f.Tunnel || f.Status != 200 || f.Err != nil || f.Conn.Destination.Addr != addr {
			t.Errorf("flow to %s, tunnel %v, status %d, %v", f.Conn.Destination.Addr, f.Tunnel, f.Status, f.Err)
		}
	}
	p.Close()
	if len(strayed) > 0 || len(flows) > 0 {
		t.Errorf("%d requests went elsewhere, %d flows too many", len(strayed), len(flows))
	}
}

// TLS passes unread; what its client asked for is known to a hook.
func TestSOCKSInsideTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	defer server.Close()
	addr := server.Listener.Addr().String()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		asked := make(chan string, 4)
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			asked <- fmt.Sprint(c.Destination.Addr, " ", c.Protocol, " ", c.ServerName)
			return mitm.Default, nil
		}))
		c := socksTo(t, start(t, p), addr, "")
		tc := tls.Client(c.Conn, &tls.Config{RootCAs: roots, ServerName: "example.com"})
		c = newPeer(t, tc)
		c.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		if _, got := c.response("GET"); got != "example.com" {
			t.Errorf("got %q", got)
		}
		c.Close()
		if got, want := <-asked, addr+" unknown "; got != want {
			t.Errorf("before the dial the hook was told %q, want %q", got, want)
		}
		if got, want := <-asked, addr+" TLS example.com"; got != want {
			t.Errorf("then the hook was told %q, want %q", got, want)
		}
		if f := nextFlow(t, flows); !f.Tunnel || f.Conn.ServerName != "example.com" || f.Sent() == 0 || f.Received() == 0 {
			t.Errorf("flow: tunnel %v, name %q, %d bytes up, %d down", f.Tunnel, f.Conn.ServerName, f.Sent(), f.Received())
		}
	})
}

// A server that speaks first does so at once, and an end is passed on in one direction
// while the other goes on.
func TestSOCKSInsideOther(t *testing.T) {
	t.Parallel()
	addr := origin(t, func(c *peer) {
		c.send("220 ready\r\n")
		said, err := c.rest()
		c.send(fmt.Sprintf("you said %s and ended: %v", said, err))
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := socksTo(t, start(t, p), addr, "")
		if got := c.read(11); got != "220 ready\r\n" {
			t.Errorf("got %q", got)
		}
		c.send("EHLO x")
		c.closeWrite()
		if got, err := c.rest(); got != "you said EHLO x and ended: <nil>" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		p.Close()
		if len(flows) != 1 {
			t.Fatalf("%d flows, want one", len(flows))
		}
		if f := <-flows; !f.Tunnel || f.Err != nil || f.Sent() != 6 || f.Received() != 43 {
			t.Errorf("flow: tunnel %v, %v, %d bytes up, %d down", f.Tunnel, f.Err, f.Sent(), f.Received())
		}
	})
}

func TestHTTPAndSOCKSOnOnePort(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		clients := []*peer{dial(t, proxy), connect(t, proxy, addr, ""), socksTo(t, proxy, addr, "")}
		for range 2 {
			for i, c := range clients {
				target := "/"
				if i == 0 {
					target = "http://" + addr
				}
				c.send("GET " + target + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
				c.wantStatus(200)
			}
		}
	})
}
