package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// modeFunc is a Mode that a user might write.
type modeFunc func(ctx context.Context, c *mitm.Conn) (mitm.Destination, error)

func (f modeFunc) Destination(ctx context.Context, c *mitm.Conn) (mitm.Destination, error) {
	return f(ctx, c)
}

// fixed is a Mode that sends every connection to one place.
func fixed(d mitm.Destination) mitm.Mode {
	return modeFunc(func(context.Context, *mitm.Conn) (mitm.Destination, error) { return d, nil })
}

// memAnswering is answering in memory.
func memAnswering(t *testing.T, l *memListener, response string) (heads chan string) {
	heads = make(chan string, 64)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				for c := newPeer(t, nc); ; c.send(response) {
					head, err := c.tryHead()
					if err != nil {
						return
					}
					heads <- head
				}
			}()
		}
	}()
	return heads
}

// HTTP/1 inside a connection to a fixed destination is recognised however it is cut into
// pieces, and is an exchange like any other.
func TestSniffHTTP1Segments(t *testing.T) {
	const request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			l := newMemListener()
			heads := memAnswering(t, l, ok200)
			done, flows := doneHook()
			p.Hooks = append(p.Hooks, done)
			p.Dial, p.Mode = l.Dial, fixed(mitm.Destination{Addr: "origin.test:80"})
			for size := 1; size <= len(request); size++ {
				client, server := memPipe()
				go p.ServeConn(t.Context(), server)
				for rest := request; rest != ""; {
					n := min(size, len(rest))
					io.WriteString(client, rest[:n])
					rest = rest[n:]
					synctest.Wait()
				}
				if got := <-heads; got != request {
					t.Errorf("pieces of %d: the origin got %q", size, got)
				}
				if f := <-flows; f.Method != "GET" || f.URL != "http://origin.test/x" || f.Tunnel || f.Err != nil {
					t.Errorf("pieces of %d: flow %s %s, tunnel %v, %v", size, f.Method, f.URL, f.Tunnel, f.Err)
				}
				if got := client.unread(); got != ok200 {
					t.Errorf("pieces of %d: the client got %q", size, got)
				}
				client.Close()
			}
			p.Close()
			l.Close()
		})
	})
}

// A request line that is too long is refused as elsewhere; it must not get past the hooks.
func TestSniffLongRequestLine(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = fixed(mitm.Destination{Addr: addr})
		c := dial(t, start(t, p))
		c.send("GET /" + strings.Repeat("x", 64<<10) + " HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(414)
		if len(heads) > 0 {
			t.Error("the origin got it")
		}
	})
}

// What is not HTTP/1 reaches the origin byte for byte and comes back.
func TestSniffRelays(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	for name, said := range map[string]string{
		"binary":     "\x00\x01\x02\xff",
		"Redis":      "PING\r\n",
		"SSH":        "SSH-2.0-client\r\n",
		"long token": strings.Repeat("t", 40) + "\x80",
		"0x16":       "\x16\x16\x80",
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				p.Mode = fixed(mitm.Destination{Addr: addr})
				c := dial(t, start(t, p))
				c.send(said)
				if got := c.read(len(said)); got != said {
					t.Errorf("got %q", got)
				}
				c.closeWrite()
				c.closed()
				f, n := <-flows, int64(len(said))
				if !f.Tunnel || f.Err != nil || f.Sent() != n || f.Received() != n || f.Conn.Destination.Addr != addr {
					t.Errorf("flow: tunnel %v, %v, %d bytes up, %d down", f.Tunnel, f.Err, f.Sent(), f.Received())
				}
			})
		})
	}
}

func TestSniffRelaysTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = fixed(mitm.Destination{Addr: server.Listener.Addr().String()})
		c := dial(t, start(t, p))
		c = newPeer(t, tls.Client(c.Conn, &tls.Config{RootCAs: roots, ServerName: "example.com"}))
		c.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
		if _, got := c.response("GET"); got != "example.com" {
			t.Errorf("got %q", got)
		}
	})
}

// A client that stops in what could still become a request gets what it sent delivered, unless hooks are
// to see requests.
func TestSniffUndecided(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			want := "hello"
			if len(p.Hooks) > 0 {
				want = ""
			}
			client, server := memPipe()
			near, far := memPipe()
			p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
			p.Mode = fixed(mitm.Destination{Addr: "origin.test:7"})
			go p.ServeConn(t.Context(), server)
			io.WriteString(client, "hello")
			time.Sleep(time.Minute)
			if got := far.unread(); got != want {
				t.Errorf("the origin got %q", got)
			}
			client.Close()
			far.Close()
			p.Close()
		})
	})
}

// A server that speaks first is relayed at once, although the client has said nothing,
// or nothing that could be judged.
func TestSniffServerFirst(t *testing.T) {
	t.Parallel()
	addr := origin(t, func(c *peer) {
		c.send("220 ready\r\n")
		c.send("you said " + c.read(6))
	})
	for _, begun := range []string{"", "G"} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Mode = fixed(mitm.Destination{Addr: addr})
			c := dial(t, start(t, p))
			c.send(begun)
			if got := c.read(11); got != "220 ready\r\n" {
				t.Errorf("got %q", got)
			}
			c.send("GET / "[len(begun):])
			if got, err := c.rest(); got != "you said GET / " || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// Where the destination can't be reached an HTTP client is told so; others see what they
// would see if they had connected themselves.
func TestSniffDialFailure(t *testing.T) {
	for name, test := range map[string]struct{ before, after, want string }{
		"HTTP":         {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "", "HTTP/1.1 502 "},
		"HTTP later":   {"", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 502 "},
		"HTTP between": {"GE", "T / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 502 "},
		"binary":       {"\x00\x01", "", ""},
		"binary later": {"", "\x00\x01", ""},
		"TLS":          {"\x16\x03\x01\x00\x40\x01", "", ""},
		"silence":      {"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					client, server := memPipe()
					fail := make(chan bool)
					p.Dial = func(context.Context, string, string) (net.Conn, error) {
						<-fail
						return nil, syscall.ECONNREFUSED
					}
					p.Mode = fixed(mitm.Destination{Addr: "origin.test:7"})
					done, flows := doneHook()
					p.Hooks = append(p.Hooks, done)
					go p.ServeConn(t.Context(), server)
					io.WriteString(client, test.before)
					synctest.Wait()
					close(fail)
					synctest.Wait()
					io.WriteString(client, test.after)
					c := newPeer(t, client)
					if test.want != "" {
						if head := c.head(); !strings.HasPrefix(head, test.want) {
							t.Errorf("got %q", head)
						}
					} else if got, err := c.rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("got %q, %v; want a reset", got, err)
					}
					if f := <-flows; !errors.Is(f.Err, syscall.ECONNREFUSED) {
						t.Errorf("flow: %v", f.Err)
					}
					client.Close()
					p.Close()
				})
			})
		})
	}
}
