package mitm_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// verifiedHook reports the verified name that an HTTPHook finds before it calls next.
func verifiedHook(names chan string) mitm.Hook {
	return mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		names <- mitm.FlowFromContext(req.Context()).VerifiedName
		return nil, nil
	})
}

// newVerifiedSite is site.test, which has a certificate for other names, too.
func newVerifiedSite(t *testing.T, e entry, names ...string) *openedSite {
	t.Helper()
	s := newRawSite(t, e, "")
	certs := make([]tls.Certificate, len(names))
	for i, name := range names {
		certs[i] = s.root.leaf(name, newKey(t), nil)
	}
	s.serveHandler("site.test", &tls.Config{Certificates: certs, NextProtos: []string{"h2", "http/1.1"}}, http.HandlerFunc(describe))
	s.addrs[transparentAddr.Addr().String()] = s.addrs["site.test"]
	return s
}

// The verified name is that of the certificate, whatever the destination and the Host field are; the
// URL is that of the destination.
func TestR62_VerifiedName(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		for _, protocol := range []string{"http/1.1", "h2"} {
			s := newVerifiedSite(t, e, "site.test", "other.test")
			done, flows := doneHook()
			names := make(chan string, 8)
			s.p.Hooks = []mitm.Hook{verifiedHook(names), done}
			config := s.trusting(protocol)
			config.ServerName = "Other.Test"
			c := s.mustSpeak(t, start(t, s.p), config)
			if protocol == "h2" {
				h := newH2Peer(t, c, true)
				h.want(h.get(":authority", "forged.test", ":path", "/x"), "200")
			} else {
				io.WriteString(c, "GET /x HTTP/1.1\r\nHost: forged.test\r\n\r\n")
				newPeer(t, c).wantStatus(200)
			}
			want(t, receive(t, names), "other.test")
			f := flowOf(t, flows, "https://"+strings.TrimSuffix(e.addr, ":443")+"/x")
			want(t, f.VerifiedName, "other.test")
			c.Close()
		}
	})
}

// unverified are ways in which nothing that the proxy knows of is verified.
var unverified = map[string]func(p *mitm.Proxy){
	"InsecureSkipVerify": func(p *mitm.Proxy) { p.OriginTLS.InsecureSkipVerify = true },
	"VerifyConnection of the destination": func(p *mitm.Proxy) {
		config := &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(tls.ConnectionState) error { return nil }}
		p.Hooks = append(p.Hooks, onDestination(func(d *mitm.Destination) { d.OriginTLS = config }))
	},
	"StartTLS": func(p *mitm.Proxy) {
		p.StartTLS = func(ctx context.Context, _ *mitm.Conn, nc net.Conn, config *tls.Config) (net.Conn, string, error) {
			c := tls.Client(nc, config)
			err := c.HandshakeContext(ctx)
			return c, c.ConnectionState().NegotiatedProtocol, err
		}
	},
	"Transport": func(p *mitm.Proxy) {
		p.Transport = roundTripper(func(*http.Request) (*http.Response, error) { return text(200, ""), nil })
	},
	"Handler": func(p *mitm.Proxy) {
		p.Hooks = append(p.Hooks, onDestination(func(d *mitm.Destination) { d.Handler = http.HandlerFunc(describe) }))
	},
}

// Where the proxy verifies no name there is none.
func TestR62_Unverified(t *testing.T) {
	t.Parallel()
	for name, change := range unverified {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachEntry(t, func(t *testing.T, e entry) {
				s := newVerifiedSite(t, e, "site.test")
				done, flows := doneHook()
				names := make(chan string, 8)
				s.p.Hooks = []mitm.Hook{verifiedHook(names), done}
				change(s.p)
				c := s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1"))
				io.WriteString(c, "GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n")
				newPeer(t, c).wantStatus(200)
				want(t, receive(t, names), "")
				want(t, nextFlow(t, flows).VerifiedName, "")
			})
		})
	}
}

// Nothing is verified in cleartext, or in what is tunnelled unread.
func TestR62_UnverifiedUnread(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		s := newVerifiedSite(t, e, "site.test")
		s.p.CA = nil
		done, flows := doneHook()
		s.p.Hooks = []mitm.Hook{done}
		c := s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1"))
		askTLS(t, c, "/")
		c.Close()
		if f := nextFlow(t, flows); f.VerifiedName != "" || !f.Tunnel {
			t.Errorf("tunnel %v, verified %q", f.Tunnel, f.VerifiedName)
		}
		addr, _ := answering(t, ok200)
		names := make(chan string, 8)
		s = newRawSite(t, e, addr)
		s.p.Hooks = []mitm.Hook{verifiedHook(names)}
		e.open(t, start(t, s.p), "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").wantStatus(200)
		want(t, receive(t, names), "")
	})
}

// The name that an embedder sets is the one that is verified.
func TestR62_NameOfEmbedder(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(s *openedSite){
		"OriginTLS": func(s *openedSite) { s.p.OriginTLS.ServerName = "Set.Test" },
		"OriginTLS of the destination": func(s *openedSite) {
			config := &tls.Config{RootCAs: s.root.pool(), ServerName: "Set.Test"}
			s.p.Hooks = append(s.p.Hooks, onDestination(func(d *mitm.Destination) { d.OriginTLS = config }))
		},
		"Host": func(s *openedSite) {
			s.p.Hooks = append(s.p.Hooks, onDestination(func(d *mitm.Destination) { d.Host = "Set.Test:8443" }))
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newVerifiedSite(t, e, "set.test")
				names := make(chan string, 8)
				s.p.Hooks = []mitm.Hook{verifiedHook(names)}
				change(s)
				c := s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1"))
				askTLS(t, c, "/")
				want(t, receive(t, names), "set.test")
			})
		})
	}
}

// An absolute-form target of an explicit proxy names what is verified; the URL stays as it came.
func TestR62_AbsoluteForm(t *testing.T) {
	t.Parallel()
	s := newVerifiedSite(t, entries[0], "site.test")
	s.addrs["site.test."] = s.addrs["site.test"]
	done, flows := doneHook()
	names := make(chan string, 8)
	s.p.Hooks = []mitm.Hook{verifiedHook(names), done}
	c := dial(t, start(t, s.p))
	for target, name := range map[string]string{"https://SITE.test/x": "site.test", "https://Site.Test.:443/x": "site.test"} {
		c.send("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(200)
		want(t, receive(t, names), name)
		f := nextFlow(t, flows)
		want(t, f.VerifiedName+" "+f.URL, name+" "+target)
	}
}

// The name follows a request that a hook sends elsewhere: the hooks behind it find it there, and so
// does every call of next.
func TestR62_FollowsHooks(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		for _, protocol := range []string{"http/1.1", "h2"} {
			s := newVerifiedSite(t, e, "site.test", "elsewhere.test")
			plain, _ := answering(t, ok200)
			s.addrs["elsewhere.test"], s.addrs["plain.test"] = s.addrs["site.test"], plain
			inner := make(chan string, 8)
			names := []string{}
			outer := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
				f := mitm.FlowFromContext(req.Context())
				own := *req.URL
				names = append(names, f.VerifiedName)
				for _, to := range []string{"https://elsewhere.test/", "http://plain.test/", own.String()} {
					out := req.Clone(req.Context())
					out.URL, _ = out.URL.Parse(to)
					res, err := next.RoundTrip(out)
					if err != nil {
						return nil, err
					}
					names = append(names, f.VerifiedName)
					if to == own.String() {
						return res, nil
					}
					res.Body.Close()
				}
				return nil, errUnreachable
			})
			s.p.Hooks = []mitm.Hook{outer, verifiedHook(inner)}
			c := s.mustSpeak(t, start(t, s.p), s.trusting(protocol))
			if protocol == "h2" {
				h := newH2Peer(t, c, true)
				h.want(h.get(":path", "/x"), "200")
			} else {
				askTLS(t, c, "/x")
			}
			want(t, fmt.Sprint(names), "[site.test elsewhere.test  site.test]")
			want(t, receive(t, inner)+"|"+receive(t, inner)+"|"+receive(t, inner), "elsewhere.test||site.test")
			c.Close()
		}
	})
}

// A ConnHook finds what would be verified if it changed nothing.
func TestR62_ConnHook(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		s := newVerifiedSite(t, e, "site.test")
		names := make(chan string, 8)
		asks := mitm.OnConn(func(ctx context.Context, c *mitm.Conn) (mitm.Action, error) {
			names <- fmt.Sprint(c.Protocol, " ", mitm.FlowFromContext(ctx).VerifiedName)
			return mitm.Default, nil
		})
		set := onDestination(func(d *mitm.Destination) { d.Host = "Set.test" })
		s.p.Hooks = []mitm.Hook{asks, set, asks}
		config := s.trusting("http/1.1")
		s.mustSpeak(t, start(t, s.p), config)
		for _, name := range []string{"unknown ", "unknown ", "TLS set.test", "TLS set.test"} {
			want(t, receive(t, names), name)
		}
	})
}
