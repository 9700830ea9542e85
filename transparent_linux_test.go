package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// Whatever a request says, it goes where the client's connection goes, with the client's target and Host
// field: that may be a proxy. So does a CONNECT.
func TestInsideDestination(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr, other := ip.server(1, 80), ip.server(2, 80)
		bare := strings.TrimSuffix(addr, ":80")
		heads, strayed := l.web(t, addr), l.web(t, other)
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l.start(t, p, w)
			for name, test := range map[string]struct{ request, want string }{
				"own Host":      {"GET /a?b=%2f HTTP/1.1\r\nHost: " + addr, "GET /a?b=%2f HTTP/1.1\r\nHost: " + addr},
				"forged Host":   {"GET / HTTP/1.1\r\nhost:" + other, "GET / HTTP/1.1\r\nhost:" + other},
				"name":          {"GET / HTTP/1.1\r\nX: 1\r\nHost: nowhere.invalid", "GET / HTTP/1.1\r\nX: 1\r\nHost: nowhere.invalid"},
				"absolute-form": {"GET http://" + other + "/x HTTP/1.1\r\nHost: " + addr, "GET http://" + other + "/x HTTP/1.1\r\nHost: " + addr},
				"HTTP/1.0":      {"GET /x HTTP/1.0\r\nConnection: keep-alive", "GET /x HTTP/1.1\r\nHost: " + bare},
				"asterisk-form": {"OPTIONS * HTTP/1.1\r\nHost: h", "OPTIONS * HTTP/1.1\r\nHost: h"},
			} {
				t.Run(name, func(t *testing.T) {
					c := l.client.dial(t, "", addr)
					c.send(test.request + "\r\n\r\n")
					wantBody(t, c, addr)
					if got := await(t, heads); got != test.want+"\r\n\r\n" {
						t.Errorf("the origin got %q, want %q", got, test.want)
					}
				})
			}
			t.Run("two Hosts", func(t *testing.T) {
				c := l.client.dial(t, "", addr)
				for _, host := range []string{"one.test", other, addr} {
					c.send("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
					wantBody(t, c, addr)
					if got := await(t, heads); got != "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n" {
						t.Errorf("the origin got %q", got)
					}
				}
			})
			t.Run("CONNECT", func(t *testing.T) {
				c := l.client.dial(t, "", addr)
				c.send("CONNECT " + other + " HTTP/1.1\r\nHost: " + other + "\r\n\r\n")
				answer := "HTTP/1.1 200"
				if len(p.Hooks) > 0 { // what is no proxy answers with content, which makes no tunnel
					answer = "HTTP/1.1 502"
				}
				want(t, c.head()[:12], answer)
				want(t, await(t, heads), "CONNECT "+other+" HTTP/1.1\r\nHost: "+other+"\r\n\r\n")
			})
			t.Run("https", func(t *testing.T) {
				c := l.client.dial(t, "", addr)
				c.send("GET https://" + other + "/ HTTP/1.1\r\nHost: " + other + "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
				c.wantStatus(400)
				c.closed()
			})
		})
		if len(strayed) > 0 {
			t.Errorf("another origin got %q", <-strayed)
		}
		if len(heads) > 0 {
			t.Errorf("the origin got one more: %q", <-heads)
		}
	})
}

// wantBody fails the test unless a good response with the content comes.
func wantBody(t *testing.T, c *peer, want string) {
	t.Helper()
	if res, body := c.response("GET"); res.StatusCode != 200 || body != want {
		t.Errorf("%s: %q, want %q", res.Status, body, want)
	}
}

// The rules lead to a listener on one address as well, if it is the one they lead to.
func TestInsideListeners(t *testing.T) {
	l := newLab(t)
	for _, w := range []way{redirect, dnat} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			addr := ip.server(1, 80)
			l.web(t, addr)
			listener, err := mitm.Transparent{}.Listen(net.JoinHostPort(ip.router, "0"))
			if err != nil {
				t.Fatal(err)
			}
			l.startOn(t, &mitm.Proxy{Mode: mitm.Transparent{}}, w, listener)
			c := l.client.dial(t, "", addr)
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			wantBody(t, c, addr)
		})
	}
}

// An embedder's listener speaks Multipath TCP unless told otherwise, which a client
// without it does not notice. That of the mode has none for clients that ask for it.
func TestInsideMultipath(t *testing.T) {
	l := newLab(t)
	eachFamily(t, redirect, func(t *testing.T, ip family) {
		addr := ip.server(1, 80)
		l.web(t, addr)
		l.start(t, &mitm.Proxy{}, redirect)
		var d net.Dialer
		d.SetMultipathTCP(true)
		var nc net.Conn
		var err error
		l.client.do(func() { nc, err = d.Dial("tcp", addr) })
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c := newPeer(t, nc)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		wantBody(t, c, addr)
	})
	t.Run("own listener", func(t *testing.T) {
		addr := families[0].server(1, 80)
		l.web(t, addr)
		listener, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		l.startOn(t, &mitm.Proxy{Mode: mitm.Transparent{}}, redirect, listener)
		c := l.client.dial(t, "", addr)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		wantBody(t, c, addr)
	})
}

// A connection to the proxy itself is reset, and nothing is dialled for it.
func TestInsideDirect(t *testing.T) {
	l := newLab(t)
	var router *namespace
	none := way{name: "no rule"}
	for _, w := range []way{redirect, dnat, tproxy, local, none} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			var dials atomic.Int32
			done, flows := doneHook()
			p := &mitm.Proxy{Hooks: []mitm.Hook{done}, Dial: countedDial(&dials)}
			port := l.start(t, p, w)
			loopback := map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1"}[ip.name]
			for to, from := range map[string]*namespace{ip.router: l.client, ip.wan: l.client, loopback: router} {
				request := "GET http://" + ip.server(1, 80) + "/ HTTP/1.1\r\nHost: h\r\n\r\n"
				from.wantReset(t, net.JoinHostPort(to, fmt.Sprint(port)), request)
				if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrNotRedirected) {
					t.Errorf("flow: %v", f.Err)
				}
			}
			if n := dials.Load(); n > 0 {
				t.Errorf("%d dials", n)
			}
		})
	}
}

// wantReset fails the test unless a connection to addr is reset, which may show as early
// as in the dial.
func (n *namespace) wantReset(t *testing.T, addr, first string) {
	t.Helper()
	nc, err := n.tryDial("", addr)
	if err == nil {
		defer nc.Close()
		_, err = io.WriteString(nc, first)
	}
	var got string
	if err == nil {
		got, err = newPeer(t, nc).rest()
	}
	if got != "" || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %q, %v; want a reset", got, err)
	}
}

// The proxy's own connections are told from those of other programs on its machine by
// their mark.
func TestInsideLocal(t *testing.T) {
	l := newLab(t)
	var router *namespace
	eachFamily(t, local, func(t *testing.T, ip family) {
		addr := ip.server(1, 80)
		heads := l.web(t, addr)
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l.start(t, p, local)
			c := router.dial(t, "", addr)
			for range 2 {
				c.send("GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n")
				wantBody(t, c, addr)
				if got := await(t, heads); got != "GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n" {
					t.Errorf("the origin got %q", got)
				}
			}
		})
	})
}

// A hook that sends a request elsewhere does not have it sent through the rules again.
func TestInsideLocalHook(t *testing.T) {
	l := newLab(t)
	var router *namespace
	eachFamily(t, local, func(t *testing.T, ip family) {
		addr, other := ip.server(1, 80), ip.server(2, 80)
		heads, others := l.web(t, addr), l.web(t, other)
		p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.URL.Host = other
			return nil, nil
		})}}
		l.start(t, p, local)
		c := router.dial(t, "", addr)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		wantBody(t, c, other)
		if got := await(t, others); got != "GET / HTTP/1.1\r\nHost: h\r\n\r\n" || len(heads) > 0 {
			t.Errorf("the other origin got %q, the first %d requests", got, len(heads))
		}
	})
}

// Nobody listens there, or nobody answers: an HTTP client is told, others see a reset.
func TestInsideUnreachable(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		for _, test := range []struct {
			to      string
			status  int
			timeout time.Duration
		}{{ip.server(1, 81), 502, 0}, {ip.server(9, 80), 504, time.Millisecond}} {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks, p.DialTimeout = append(p.Hooks, done), test.timeout
				l.start(t, p, w)
				c := l.client.dial(t, "", test.to)
				for range 2 { // the connection goes on
					c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					c.wantStatus(test.status)
					if f := nextFlow(t, flows); f.Err == nil || f.Status != test.status || f.Conn.Destination.Addr != test.to {
						t.Errorf("flow to %s: status %d, %v", f.Conn.Destination.Addr, f.Status, f.Err)
					}
				}
				l.client.wantReset(t, test.to, "\x00binary")
				if f := nextFlow(t, flows); f.Err == nil || f.Status != 0 {
					t.Errorf("flow: status %d, %v", f.Status, f.Err)
				}
			})
		}
	})
	eachFamily(t, redirect, func(t *testing.T, ip family) {
		l.start(t, &mitm.Proxy{}, redirect)
		l.client.wantReset(t, ip.server(1, 81), "") // says nothing
	})
}

// ConnHooks see the kernel's destination. They may refuse it, or change it.
func TestInsideConnHook(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr, other := ip.server(1, 80), ip.server(2, 80)
		heads, others := l.web(t, addr), l.web(t, other)
		t.Run("reject", func(t *testing.T) {
			var dials atomic.Int32
			done, flows := doneHook()
			l.start(t, &mitm.Proxy{Hooks: []mitm.Hook{rejects, done}, Dial: countedDial(&dials)}, w)
			l.client.wantReset(t, addr, "")
			f := nextFlow(t, flows)
			if !errors.Is(f.Err, mitm.ErrRejected) || f.Conn.Destination.Addr != addr {
				t.Errorf("flow to %s: %v", f.Conn.Destination.Addr, f.Err)
			}
			if client := f.Conn.RemoteAddr().(*net.TCPAddr); client.IP.String() != ip.client {
				t.Errorf("the client was %v", client)
			}
			if n := dials.Load(); n > 0 {
				t.Errorf("%d dials", n)
			}
		})
		for name, when := range map[string]mitm.Protocol{"before": mitm.Unknown, "after": mitm.HTTP1} {
			t.Run("redirect "+name, func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						if c.Protocol == when && c.Destination.Addr == addr {
							c.Destination.Addr = other
						}
						return mitm.Default, nil
					}))
					l.start(t, p, w)
					c := l.client.dial(t, "", addr)
					c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					wantBody(t, c, other)
					if got := await(t, others); !strings.HasPrefix(got, "GET / ") || len(heads) > 0 {
						t.Errorf("the other origin got %q, the first %d requests", got, len(heads))
					}
				})
			})
		}
	})
}
