package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// eachNestedWay runs f for the ways on which the clients of another proxy, at addr, come by: redirected
// to it, by SOCKS5, and by a CONNECT to it; with hooks and without; with a CA and without.
func eachNestedWay(t *testing.T, f func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer)) {
	t.Helper()
	for way, open := range map[string]func(t testing.TB, p *mitm.Proxy, addr string) *peer{
		"transparent": func(t testing.TB, p *mitm.Proxy, addr string) *peer {
			p.Mode = mitm.Transparent{Lookup: lookup(addr)}
			return dial(t, start(t, p))
		},
		"SOCKS5":  func(t testing.TB, p *mitm.Proxy, addr string) *peer { return socksTo(t, start(t, p), addr, "") },
		"CONNECT": func(t testing.TB, p *mitm.Proxy, addr string) *peer { return connect(t, start(t, p), addr, "") },
	} {
		for _, ca := range []*mitm.CA{nil, newCA(t)} {
			t.Run(fmt.Sprint(way, " CA ", ca != nil), func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					p.CA = ca
					f(t, p, func(addr string) *peer { return open(t, p, addr) })
				})
			})
		}
	}
}

// The target of a request to another proxy leaves as it came, and so does Host.
func TestR72_AbsoluteForm(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		c := open(addr)
		for _, head := range []string{
			"GET http://site.test/x?y HTTP/1.1\r\nHost: site.test\r\n\r\n",
			"GET HTTP://Site.Test:80 HTTP/1.1\r\nHost: Site.Test\r\n\r\n",
			"POST http://site.test/%zz HTTP/1.1\r\nhost:other.test\r\nContent-Length: 0\r\n\r\n",
			"OPTIONS http://site.test HTTP/1.1\r\nHost: site.test\r\n\r\n",
			"GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n",
		} {
			c.send(head)
			c.wantStatus(200)
			want(t, receive(t, heads), head)
		}
	})
}

// Hooks see where a request to another proxy goes, and what that will read as its host. What they change
// is in the target.
func TestR72_AbsoluteFormHooks(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	elsewhere, others := answering(t, ok200)
	for name, test := range map[string]struct {
		change func(req *http.Request)
		target string
		host   string
		there  chan string
	}{
		"nothing": {func(*http.Request) {}, "http://site.test/x?y", "forged.test", heads},
		"path":    {func(req *http.Request) { req.URL.Path = "/z" }, "http://site.test/z?y", "forged.test", heads},
		"Host":    {func(req *http.Request) { req.Host = "new.test" }, "http://new.test/x?y", "new.test", heads},
		"URL":     {func(req *http.Request) { req.URL.Host = elsewhere }, "/x?y", "site.test", others},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(chan string, 1)
			done, flows := doneHook()
			p := &mitm.Proxy{Mode: mitm.Transparent{Lookup: lookup(addr)}, Hooks: []mitm.Hook{done, mitm.OnRequest(
				func(req *http.Request) (*http.Response, error) {
					seen <- req.URL.String() + " " + req.Host
					test.change(req)
					return nil, nil
				})}}
			c := dial(t, start(t, p))
			c.send("GET http://site.test/x?y HTTP/1.1\r\nHost: forged.test\r\n\r\n")
			c.wantStatus(200)
			want(t, receive(t, seen), "http://"+addr+"/x?y site.test")
			want(t, receive(t, test.there), "GET "+test.target+" HTTP/1.1\r\nHost: "+test.host+"\r\n\r\n")
			want(t, nextFlow(t, flows).URL, "http://"+addr+"/x?y")
		})
	}
}

// A tunnel through another proxy is looked into like any other: what is inside is the business of hooks
// where there is a certificate for it.
func TestR72_Connect(t *testing.T) {
	t.Parallel()
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		s := newVerifiedSite(t, entries[0], "site.test")
		asked := make(chan string, 64)
		other := &mitm.Proxy{Dial: s.dial, Hooks: []mitm.Hook{onDestination(func(d *mitm.Destination) { asked <- d.Addr })}}
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		p.OriginTLS = &tls.Config{RootCAs: s.root.pool()}
		s.p.CA = p.CA
		c := open(start(t, other))
		tunnel(c, "site.test:443")
		want(t, receive(t, asked), "site.test:443")
		tc := tls.Client(c.Conn, s.trusting("http/1.1"))
		for range 3 {
			io.WriteString(tc, "GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n")
			_, body := (&peer{tc, t, bufio.NewReader(tc)}).response("GET")
			want(t, body, "HTTP/1.1 /x")
		}
		if p.CA != nil {
			for range 3 {
				f := flowOf(t, flows, "https://site.test/x")
				want(t, f.VerifiedName+" "+f.Conn.Destination.Addr, "site.test site.test:443")
			}
		}
		if len(asked) > 0 {
			t.Errorf("the other proxy was asked for %s", <-asked)
		}
		tc.Close()
		c.Close()
		if p.CA != nil || p.Mode != nil {
			want(t, flowOf(t, flows, "site.test:443").Method, "CONNECT")
		}
	})
}

// HTTP/2 inside is carried by the one tunnel, too, and what an origin chose is what the client gets.
func TestR72_ConnectHTTP2Inside(t *testing.T) {
	t.Parallel()
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		s := newVerifiedSite(t, entries[0], "site.test")
		p.OriginTLS = &tls.Config{RootCAs: s.root.pool()}
		s.p.CA = p.CA
		c := open(start(t, &mitm.Proxy{Dial: s.dial}))
		tunnel(c, "site.test:443")
		tc := tls.Client(c.Conn, s.trusting("h2", "http/1.1"))
		if err := tc.Handshake(); err != nil {
			t.Fatal(err)
		}
		want(t, tc.ConnectionState().NegotiatedProtocol, "h2")
		h := newH2Peer(t, tc, true)
		for range 3 {
			stream := h.get(":path", "/x")
			h.want(stream, "200")
			want(t, stream.body.String(), "HTTP/2.0 /x")
		}
	})
}

// In a tunnel through another proxy, what is no HTTP is relayed, whoever speaks first.
func TestR72_ConnectOther(t *testing.T) {
	t.Parallel()
	banner := origin(t, func(c *peer) {
		c.send("220 hello\r\n")
		io.Copy(c, c.r)
	})
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		c := open(start(t, &mitm.Proxy{}))
		tunnel(c, banner)
		want(t, c.read(11), "220 hello\r\n")
		c.send("QUIT\r\n")
		want(t, c.read(6), "QUIT\r\n")
	})
}

// Plain HTTP in a tunnel through another proxy is what hooks see: a server that is no proxy could take
// for requests what follows a CONNECT.
func TestR72_ConnectPlain(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") // whatever it is asked
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		refuses := len(p.Hooks) > 0
		if refuses {
			p.Hooks = []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if req.Method == "CONNECT" {
					return nil, nil
				}
				return nil, mitm.ErrRejected
			})}
		}
		c := open(addr)
		c.send("CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\n\r\n")
		want(t, c.head()[:12], "HTTP/1.1 200")
		want(t, receive(t, heads), "CONNECT site.test:80 HTTP/1.1\r\nHost: site.test:80\r\n\r\n")
		c.send("GET /secret HTTP/1.1\r\nHost: site.test\r\n\r\n")
		unread := p.Mode == nil && p.CA == nil && strings.Contains(t.Name(), "/CONNECT_") // the outer tunnel is not read
		if refuses && !unread {
			c.wantStatus(403)
			return
		}
		want(t, c.head()[:12], "HTTP/1.1 200")
		receive(t, heads)
	})
}

// What the other proxy answers is for the client. After a 407 that may ask again on its connection.
func TestR72_ConnectRefused(t *testing.T) {
	t.Parallel()
	const ask = "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\nProxy-Authorization: Basic b3RoZXI6\r\n\r\n"
	challenged := "HTTP/1.1 407 Who Are You\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=\"other\"\r\nContent-Length: 4\r\n\r\nwho?"
	other := origin(t, func(c *peer) {
		for range 2 {
			if head, err := c.tryHead(); err != nil || head != ask {
				t.Errorf("the other proxy got %q, %v", head, err)
			}
			c.send(challenged)
		}
		c.tryHead()
		c.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
		if _, err := c.tryHead(); err == nil {
			t.Error("something follows a refused CONNECT")
		}
	})
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		c := open(other)
		for range 2 {
			c.send(ask)
			res, body := c.response("CONNECT")
			want(t, fmt.Sprint(res.Status, res.Header["Proxy-Authenticate"], body), "407 Who Are You[NTLM Basic realm=\"other\"]who?")
		}
		c.send(ask)
		res, body := c.response("CONNECT")
		want(t, res.Status+body, "403 Nono")
		if p.CA != nil || p.Mode != nil {
			c.closed()
		}
	})
}

// ConnHooks are asked about the destination of the tunnel before the other proxy is.
func TestR72_ConnectDecided(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newVerifiedSite(t, e, "site.test")
			asked := make(chan string, 8)
			s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.Destination.Addr == "inner.test:443" {
					asked <- fmt.Sprint(c.Protocol)
					return mitm.Reject, nil
				}
				return mitm.Default, nil
			})}
			protocol := "http/1.1"
			if h2 {
				protocol = "h2"
			}
			tc := s.mustSpeak(t, start(t, s.p), s.trusting(protocol))
			if h2 {
				h := newH2Peer(t, tc, true)
				h.want(h.connect("inner.test:443"), "403")
			} else {
				io.WriteString(tc, "CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\n")
				newPeer(t, tc).wantStatus(403)
			}
			want(t, receive(t, asked), "unknown")
			tc.Close()
			s.untouched(t, "site.test")
		})
	}
}

// An HTTPHook sees a CONNECT to another proxy, and can refuse it; what else it makes of it is an error.
func TestR72_ConnectHooks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hook   func(req *http.Request) (*http.Response, error)
		status string
	}{
		"error":     {func(*http.Request) (*http.Response, error) { return nil, mitm.ErrRejected }, "403"},
		"answer":    {func(*http.Request) (*http.Response, error) { return text(404, "none"), nil }, "404"},
		"tunnel":    {func(*http.Request) (*http.Response, error) { return text(200, "none"), nil }, "502"},
		"elsewhere": {func(req *http.Request) (*http.Response, error) { req.URL.Host = "h.test"; return nil, nil }, "502"},
		"method":    {func(req *http.Request) (*http.Response, error) { req.Method = "CONNECT "; return nil, nil }, "502"},
	} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newVerifiedSite(t, e, "site.test")
					seen := make(chan string, 1)
					s.p.Hooks = []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
						seen <- req.Method + " " + req.URL.Host + " " + req.Host + " " + mitm.FlowFromContext(req.Context()).VerifiedName
						return test.hook(req)
					})}
					tc := s.mustSpeak(t, start(t, s.p), s.trusting(protocol))
					if protocol == "h2" {
						h := newH2Peer(t, tc, true)
						h.want(h.connect("inner.test:443"), test.status)
					} else {
						io.WriteString(tc, "CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n\r\n")
						c := newPeer(t, tc)
						want(t, c.head()[len("HTTP/1.1 "):][:3], test.status)
					}
					want(t, receive(t, seen), "CONNECT "+strings.TrimSuffix(e.addr, ":443")+" inner.test:443 site.test")
					tc.Close()
					s.untouched(t, "site.test")
				})
			})
		}
	}
}

// A Handler and DialLate hold inside of another proxy's tunnel, too.
func TestR72_ConnectHandler(t *testing.T) {
	t.Parallel()
	other, heads := answering(t, ok200)
	eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
		if p.CA == nil {
			return // an outer CONNECT is not read
		}
		p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.Destination.Addr == "inner.test:80" {
				c.Destination.Handler = http.NotFoundHandler()
			}
			return mitm.Default, nil
		}))
		c := open(other)
		tunnel(c, "inner.test:80")
		c.send("GET / HTTP/1.1\r\nHost: inner.test\r\n\r\n")
		c.wantStatus(404)
		if len(heads) > 0 {
			t.Errorf("the other proxy got %q", <-heads)
		}
	})
}

// secureProxy is another proxy behind TLS.
func secureProxy(t *testing.T, p *mitm.Proxy, cert tls.Certificate) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		p.Close()
		<-served
	})
	return l.Addr().String()
}

// A proxy that is spoken to over TLS, and in HTTP/2, is one like any other.
func TestR72_SecureProxy(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http/1.1", "h2"} {
		for _, password := range []string{"", "right", "sent"} { // is none needed, and is it sent?
			field := ""
			if password == "sent" {
				field = strings.TrimSuffix(strings.TrimPrefix(basic("user:sent"), "Proxy-Authorization: "), "\r\n")
			}
			eachEntry(t, func(t *testing.T, e entry) {
				s := newVerifiedSite(t, e, "inner.test")
				s.addrs["inner.test"] = s.addrs["site.test"]
				other := &mitm.Proxy{Dial: s.dial}
				if password != "" {
					other.Mode = mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"user": password})}
				}
				at := secureProxy(t, other, s.root.leaf("site.test", newKey(t), nil))
				s.addrs["site.test"], s.addrs[transparentAddr.Addr().String()] = at, at
				done, flows := doneHook()
				s.p.Hooks = []mitm.Hook{done, noChange()}
				tc := s.mustSpeak(t, start(t, s.p), s.trusting(protocol))
				inner := net.Conn(tc)
				status := ""
				if protocol == "h2" {
					h := newH2Peer(t, tc, true)
					fields := []string{}
					if field != "" {
						fields = []string{"proxy-authorization", field}
					}
					stream := h.connect("inner.test:443", fields...)
					status = valueOf(stream.head, ":status")
					want(t, valueOf(stream.head, "proxy-authenticate"), map[bool]string{true: `Basic realm="proxy", charset="UTF-8"`}[password == "right"])
					if status == "200" {
						a, b := memPipe()
						go h.join(stream, b)
						inner = a
					}
				} else {
					fields := ""
					if field != "" {
						fields = "Proxy-Authorization: " + field + "\r\n"
					}
					io.WriteString(tc, "CONNECT inner.test:443 HTTP/1.1\r\nHost: inner.test:443\r\n"+fields+"\r\n")
					c := newPeer(t, tc)
					head := c.head()
					status = head[len("HTTP/1.1 "):][:3]
				}
				if password == "right" {
					want(t, status, "407")
					return
				}
				want(t, status, "200")
				config := s.trusting("http/1.1")
				config.ServerName = "inner.test"
				innermost := tls.Client(inner, config)
				want(t, askTLS(t, innermost, "/x"), "HTTP/1.1 /x")
				want(t, flowOf(t, flows, "https://inner.test/x").VerifiedName, "inner.test")
			})
		}
	}
}

// Not more than a few proxies can be one behind the other.
func TestR72_ManyProxies(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, "HTTP/1.1 200 OK\r\n\r\n")
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode, p.CA = mitm.Transparent{Lookup: lookup(addr)}, newCA(t)
		c := dial(t, start(t, p))
		for i := 0; ; i++ {
			c.send("CONNECT next.test:80 HTTP/1.1\r\nHost: next.test:80\r\n\r\n")
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") {
				want(t, head[:12], "HTTP/1.1 400")
				if i < 4 {
					t.Errorf("refused after %d", i)
				}
				break
			}
			receive(t, heads)
			if i > 100 {
				t.Fatal("there is no end")
			}
		}
	})
}

// A CONNECT for no host and port, as some VPNs begin, is none for a proxy: it is relayed, but not past
// hooks that want to see HTTP, unless a ConnHook lets it pass.
func TestR72_OddConnect(t *testing.T) {
	t.Parallel()
	const odd = "CONNECT /vpn/tunnel HTTP/1.1\r\nHost: vpn.test\r\n\r\n"
	addr := origin(t, func(c *peer) { io.Copy(c, c.r) })
	for _, action := range []mitm.Action{mitm.Default, mitm.Tunnel, mitm.Reject} {
		eachNestedWay(t, func(t *testing.T, p *mitm.Proxy, open func(addr string) *peer) {
			if p.CA == nil {
				p.CA = newCA(t) // or an outer CONNECT is not read
			}
			reads := len(p.Hooks) > 0
			protocols := make(chan mitm.Protocol, 8)
			done, flows := doneHook()
			p.Hooks = append(p.Hooks, done, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.Protocol != mitm.Other {
					return mitm.Default, nil
				}
				protocols <- c.Protocol
				return action, nil
			}))
			c := open(addr)
			c.send(odd)
			switch {
			case action == mitm.Reject:
				c.closed()
				if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrRejected) {
					t.Errorf("flow ended with %v", f.Err)
				}
			case action == mitm.Default && reads:
				c.wantStatus(400)
			default:
				want(t, c.read(len(odd)), odd)
				c.send("\x00\x01binary")
				want(t, c.read(8), "\x00\x01binary")
				c.closeWrite()
				c.closed()
				if f := nextFlow(t, flows); !f.Tunnel || f.Err != nil {
					t.Errorf("flow: tunnel %v, %v", f.Tunnel, f.Err)
				}
			}
			receive(t, protocols)
		})
	}
}

// A server that is no proxy, and answers a CONNECT like a GET, is no way past hooks that let the CONNECT
// pass; a proxy that only says that there is no content is one.
func TestNestedAnswerWithContent(t *testing.T) {
	hook := mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		if req.Method == http.MethodConnect {
			return nil, nil
		}
		return nil, mitm.ErrRejected
	})
	for answer, told := range map[string]string{
		"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody":                            "HTTP/1.1 502",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n": "HTTP/1.1 502",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n":                                "HTTP/1.1 200",
	} {
		for _, w := range unseenWays() {
			if w.tls {
				continue
			}
			ca := newCA(t)
			synctest.Test(t, func(t *testing.T) {
				got := make(chan string, 1)
				p := &mitm.Proxy{Mode: w.mode, CA: ca, Hooks: []mitm.Hook{hook}}
				p.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, far := memPipe()
					go func() {
						c := newPeer(t, far)
						c.head()
						io.WriteString(far, answer)
						rest, _ := io.ReadAll(c.r)
						far.Close()
						got <- string(rest)
					}()
					return near, nil
				}
				c := serveMem(t, p)
				c.send(w.hello)
				c.read(w.reply)
				c.send("CONNECT other.test:80 HTTP/1.1\r\nHost: other.test:80\r\n\r\n")
				want(t, c.read(len(told)), told)
				time.Sleep(5 * time.Second)
				io.WriteString(c, "GET /x HTTP/1.1\r\nHost: other.test\r\n\r\n") // it may be closed already
				c.rest()
				p.Close()
				want(t, receive(t, got), "")
			})
		}
	}
}
