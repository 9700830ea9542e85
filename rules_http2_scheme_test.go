package mitm_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// eachWayToProxy runs f for clients that speak HTTP/2 to the proxy itself, over TLS and in the
// clear.
func eachWayToProxy(t *testing.T, f func(t *testing.T, p *mitm.Proxy, connect func() *h2peer)) {
	for _, secure := range []bool{true, false} {
		t.Run(fmt.Sprint("TLS=", secure), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				f(t, p, func() *h2peer {
					if secure {
						return newH2Peer(t, startSecure(t, p, "h2")(), true)
					}
					return newH2Peer(t, dial(t, start(t, p)).Conn, true)
				})
			})
		})
	}
}

// In a request to the proxy itself, :scheme determines whether the origin is to be spoken to over TLS.
func TestR09_HTTP2(t *testing.T) {
	server, roots := handlerOrigin(t, 1, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Host, r.RequestURI, r.TLS != nil)
	})
	plain, heads := answering(t, ok200)
	eachWayToProxy(t, func(t *testing.T, p *mitm.Proxy, connect func() *h2peer) {
		newInterception(t, p, roots)
		dialled := make(chan string, 2)
		p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled <- addr
			return new(net.Dialer).DialContext(ctx, network, map[string]string{"example.com:443": server, "example.com:80": plain}[addr])
		}
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := connect()
		for _, test := range [][3]string{
			{"https", "example.com:443", "example.com/xtrue"},
			{"http", "example.com:80", "ok"},
		} {
			s := c.get(":scheme", test[0], ":path", "/x")
			if c.want(s, "200"); s.body.String() != test[2] {
				t.Errorf("%s: %q", test[0], s.body.String())
			}
			want(t, receive(t, dialled), test[1])
			want(t, nextFlow(t, flows).URL, test[0]+"://example.com/x")
		}
		receive(t, heads)
	})
}

// No byte of a request of HTTP/2 for an https target reaches an origin that speaks no TLS.
func TestR09_HTTP2NotInTheClear(t *testing.T) {
	eachWayToProxy(t, func(t *testing.T, p *mitm.Proxy, connect func() *h2peer) {
		received := make(chan string, 1)
		p.Dial = dialTo(origin(t, func(c *peer) {
			if first, err := c.r.Peek(1); err == nil && first[0] == 0x16 { // a handshake record
				c.send("HTTP/1.1 400 Bad Request\r\n\r\n")
			}
			all, _ := c.r.Peek(c.r.Buffered())
			received <- string(all)
		}))
		c := connect()
		c.want(c.get(":scheme", "https", ":path", "/secret"), "502")
		if got := receive(t, received); !strings.HasPrefix(got, "\x16") || strings.Contains(got, "secret") {
			t.Errorf("the origin got %q", got)
		}
	})
}

// On a connection with a destination it is the connection that is secured or not: an https target
// is refused in the clear, and an http target stays inside TLS.
func TestR09_HTTP2Inside(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen := make(chan gotRequest, 4)
		addr := origin(t, func(c *peer) { newH2Peer(t, c.Conn, false).serveAll(seen) })
		nc := dial(t, start(t, newInterception(t, p, nil).proxy))
		tunnel(nc, addr)
		c := newH2Peer(t, nc.Conn, true)
		c.want(c.get(":scheme", "https", ":authority", addr, ":path", "/secret"), "400")
		c.want(c.get(":scheme", "http", ":authority", addr, ":path", "/last"), "200")
		wantOnly(t, seen)
	})
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get(":scheme", "http", ":path", "/inside"), "200")
		want(t, receive(t, seen).path, "/inside")
	})
}
