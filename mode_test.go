package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"

	"example.com/mitm"
)

// quiet is for servers whose complaints are wanted.
var quiet = log.New(io.Discard, "", 0)

// reverse is Reverse to target.
func reverse(t testing.TB, target string) mitm.Reverse {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return mitm.Reverse{Target: u}
}

func TestExplicitNeedsAbsoluteForm(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = mitm.Explicit{}
		proxy := start(t, p)
		c := dial(t, proxy)
		c.send("GET / HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.wantStatus(400)
		c.closed()
		c = dial(t, proxy)
		c.send("OPTIONS * HTTP/1.1\r\nHost: " + addr + "\r\n\r\n") // asks about the proxy itself
		c.wantStatus(200)
		c.send("GET http://" + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.wantStatus(200)
		if got := <-heads; !strings.HasPrefix(got, "GET / HTTP/1.1\r\n") {
			t.Errorf("the origin got %q", got)
		}
	})
}

// Whatever a request names, it goes to the one destination of its connection.
func TestReverseDestination(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	elsewhere, strayed := answering(t, ok200)
	for name, test := range map[string]struct{ request, want, wantKept string }{
		"origin-form":   {"GET /a?b", "GET /a?b HTTP/1.1\r\nHost: " + addr, "GET /a?b HTTP/1.1\r\nHost: " + elsewhere},
		"absolute-form": {"GET http://" + elsewhere + "/a", "GET /a HTTP/1.1\r\nHost: " + addr, "GET /a HTTP/1.1\r\nHost: " + elsewhere},
		"asterisk-form": {"OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: " + addr, "OPTIONS * HTTP/1.1\r\nHost: " + elsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			for _, keep := range []bool{false, true} {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					mode, want := reverse(t, "http://"+addr), test.want
					if mode.KeepHost = keep; keep {
						want = test.wantKept
					}
					p.Mode = mode
					c := dial(t, start(t, p))
					for range 2 {
						c.send(test.request + " HTTP/1.1\r\nHost: " + elsewhere + "\r\n\r\n")
						c.wantStatus(200)
						if got := <-heads; got != want+"\r\n\r\n" {
							t.Errorf("keep %v: the origin got %q, want %q", keep, got, want)
						}
					}
				})
			}
		})
	}
	if len(strayed) > 0 {
		t.Errorf("another origin got %q", <-strayed)
	}
}

func TestReverseRefusesConnect(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Dial, p.Mode = noDial(t), reverse(t, "http://origin.test")
		c := dial(t, start(t, p))
		c.send("CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		c.wantStatus(405)
		c.closed()
	})
}

func TestReverseUnreachable(t *testing.T) {
	t.Parallel()
	addr := unreachable(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = reverse(t, "http://"+addr)
		c := dial(t, start(t, p))
		for range 2 { // the connection goes on
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			c.wantStatus(502)
		}
	})
}

func TestReverseTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+" "+r.TLS.ServerName+" "+r.TLS.NegotiatedProtocol)
	}))
	server.Config.ErrorLog = quiet
	server.StartTLS()
	defer server.Close()
	addr := server.Listener.Addr().String()
	_, port, _ := strings.Cut(addr, ":")
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	trusting := &tls.Config{RootCAs: roots}
	for name, test := range map[string]struct {
		host   string
		config *tls.Config
		status int
		body   string
	}{
		"name":          {"example.com", trusting, 200, "example.com:" + port + " example.com http/1.1"},
		"address":       {"127.0.0.1", trusting, 200, addr + "  http/1.1"},
		"wrong name":    {"origin.test", trusting, 502, ""},
		"unknown issue": {"example.com", &tls.Config{RootCAs: x509.NewCertPool()}, 502, ""},
		"default roots": {"example.com", nil, 502, ""},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				p.Mode, p.OriginTLS, p.Dial = reverse(t, "https://"+test.host+":"+port), test.config, dialAlways(addr)
				c := dial(t, start(t, p))
				for range 2 {
					c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					res, body := c.response("GET")
					if res.StatusCode != test.status || test.body != "" && body != test.body {
						t.Errorf("%s: %q", res.Status, body)
					}
				}
			})
		})
	}
}

func TestReverseTarget(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"origin.test", "ftp://origin.test", "http://", "http://origin.test/path", "http://u@origin.test",
		"http://origin.test?q", "https:opaque", "//origin.test",
	} {
		p := &mitm.Proxy{Mode: reverse(t, target)}
		if err := p.Serve(newMemListener()); err == nil || errors.Is(err, mitm.ErrProxyClosed) {
			t.Errorf("%s: %v", target, err)
		}
		p.Close()
	}
	p := &mitm.Proxy{Mode: mitm.Reverse{}}
	if err := p.Serve(newMemListener()); err == nil || errors.Is(err, mitm.ErrProxyClosed) {
		t.Errorf("no target: %v", err)
	}
	p.Close()
}

func TestReverseRejected(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, rejects, done)
		p.Dial, p.Mode = noDial(t), reverse(t, "http://origin.test")
		c := dial(t, start(t, p))
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(403)
		c.closed()
		if f := <-flows; !errors.Is(f.Err, mitm.ErrRejected) || f.Status != 403 {
			t.Errorf("flow: status %d, %v", f.Status, f.Err)
		}
	})
}

// A hook that decides once it knows the protocol is asked with it, and can refuse in it.
func TestFixedRejected(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.Protocol == mitm.HTTP1 {
				return mitm.Reject, nil
			}
			return mitm.Default, nil
		}))
		p.Mode = fixed(mitm.Destination{Addr: addr})
		proxy := start(t, p)
		c := dial(t, proxy)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(403)
		c.closed()
		c = dial(t, proxy)
		c.send("PING\r\n")
		c.read(6)
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Hooks = append(p.Hooks, rejects)
		p.Dial, p.Mode = noDial(t), fixed(mitm.Destination{Addr: addr})
		if got, err := serveMem(t, p).rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v; want a reset", got, err)
		}
	})
}

// A hook may change the destination when it learns the protocol.
func TestFixedRedirected(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	elsewhere, heads := answering(t, ok200)
	for _, action := range []mitm.Action{mitm.Default, mitm.Tunnel} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.Protocol != mitm.HTTP1 {
					return mitm.Default, nil
				}
				c.Destination.Addr = elsewhere
				return action, nil
			}))
			p.Mode = fixed(mitm.Destination{Addr: addr})
			c := dial(t, start(t, p))
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			c.wantStatus(200)
			if got := <-heads; got != "GET / HTTP/1.1\r\nHost: h\r\n\r\n" {
				t.Errorf("the origin got %q", got)
			}
		})
	}
}
