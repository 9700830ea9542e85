package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// RefuseUnread refuses what hooks could not read, on every way, and leaves the rest alone.
func TestR61_RefuseUnread(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		for _, ca := range []*mitm.CA{newCA(t), nil} {
			for name, said := range map[string]string{
				"binary": "\x00\x01binary", "text": "HELO me\r\n", "a hello that is refused": refusedHellos["a dot behind the name"].hello,
				"TLS":          smallHello("site.test"),
				"server first": "",
			} {
				if name == "TLS" && ca != nil { // there is a certificate to terminate it by
					continue
				}
				t.Run(name, func(t *testing.T) {
					addr, ends := recorder(t)
					opened := make(chan bool)
					if said == "" {
						addr = origin(t, func(c *peer) {
							<-opened
							c.send("220 ready\r\n")
							got, _ := c.rest()
							ends <- got
						})
					}
					s := newRawSite(t, e, addr)
					done, flows := doneHook()
					s.p.CA, s.p.Hooks = ca, []mitm.Hook{done, mitm.RefuseUnread()}
					c := e.open(t, start(t, s.p), said)
					close(opened)
					if got, err := c.rest(); !strings.HasPrefix(got, "\x15\x03") && !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("CA %v: the client got %q, %v", ca != nil, got, err)
					}
					c.Close()
					if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrRejected) || !errors.Is(f.Err, mitm.ErrUnread) || f.Tunnel {
						t.Errorf("CA %v: flow: %v, tunnel %v", ca != nil, f.Err, f.Tunnel)
					}
					s.p.Close()
					ends <- ""
					want(t, strings.TrimSuffix(receive(t, ends), " cut"), "")
				})
			}
			t.Run("HTTP", func(t *testing.T) {
				addr, _ := answering(t, ok200)
				s := newRawSite(t, e, addr)
				s.p.CA, s.p.Hooks = ca, []mitm.Hook{mitm.RefuseUnread()}
				c := e.open(t, start(t, s.p), "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
				want(t, c.read(len(ok200)), ok200)
			})
		}
	})
}

// Who says one name here and another there is refused.
func TestR61_RefuseFronting(t *testing.T) {
	for _, test := range []struct {
		sni, host string
		refused   bool
	}{
		{"site.test", "site.test", false},
		{"SITE.TEST", "Site.Test.:443", false},
		{"", "site.test", false},
		{"site.test", "other.test", true},
		{"site.test", "192.0.2.7", true},
		{"other.test", "other.test", true}, // but not where the destination is an address
		{"other.test", "site.test", true},
	} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(test.sni+" "+test.host+" "+protocol, func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					refused := test.refused && !(e.mode != nil && test.sni == test.host)
					s := newServedSite(t, e, func(c *tls.Conn) { answerTLS(c, ok200) })
					s.p.OriginTLS = &tls.Config{InsecureSkipVerify: true}
					s.p.Hooks = []mitm.Hook{mitm.RefuseUnread()}
					config := s.trusting(protocol)
					config.ServerName, config.InsecureSkipVerify = test.sni, true
					c, _, err := s.speak(t, start(t, s.p), config)
					if err != nil {
						if !refused {
							t.Errorf("handshake: %v", err)
						}
						return
					}
					defer c.Close()
					tr := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return c, nil }}
					tr.Protocols = new(http.Protocols)
					tr.Protocols.SetHTTP1(protocol != "h2")
					tr.Protocols.SetHTTP2(protocol == "h2")
					defer tr.CloseIdleConnections()
					req, _ := http.NewRequest("GET", "https://site.test/", nil)
					req.Host = test.host
					res, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if (res.StatusCode == http.StatusForbidden) != refused {
						t.Errorf("status %d", res.StatusCode)
					}
				})
			})
		}
	}
}

// A hook behind RefuseUnread that answers Intercept does not decide about TLS that can't be terminated.
func TestR61_RefuseUnreadThenIntercept(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		for name, hello := range map[string]string{"TLS": smallHello("site.test"), "refused": refusedHellos["a dot behind the name"].hello} {
			t.Run(name, func(t *testing.T) {
				addr, ends := recorder(t)
				s := newRawSite(t, e, addr)
				done, flows := doneHook()
				s.p.CA, s.p.Hooks = nil, []mitm.Hook{done, mitm.RefuseUnread(), mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) {
					return mitm.Intercept, nil
				})}
				c := e.open(t, start(t, s.p), hello)
				c.rest()
				if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrRejected) || !errors.Is(f.Err, mitm.ErrUnread) || f.Tunnel {
					t.Errorf("flow: %v, tunnel %v", f.Err, f.Tunnel)
				}
				s.p.Close()
				ends <- ""
				want(t, strings.TrimSuffix(receive(t, ends), " cut"), "")
			})
		}
	})
}

// A client that refuses our certificate is not tunnelled for that.
func TestR61_RefuseUnreadPinned(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newServedSite(t, e, func(c *tls.Conn) { answerTLS(c, ok200) })
		done, flows := doneHook()
		s.p.TunnelPinned, s.p.Hooks = time.Hour, []mitm.Hook{done, mitm.RefuseUnread()}
		proxy := start(t, s.p)
		config := s.trusting("http/1.1")
		config.RootCAs = s.root.pool() // the origin's
		for range 3 {
			if _, _, err := s.speak(t, proxy, config); err == nil {
				t.Error("the client has got the origin's certificate")
			}
			if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrCertificateRefused) || f.Tunnel {
				t.Errorf("flow: %v, tunnel %v", f.Err, f.Tunnel)
			}
		}
	})
}

// A hook that puts in a Destination of its own making does not hide by which name it was asked for.
func TestR61_RefuseFrontingReplaced(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		if e.mode != nil {
			t.Skip("no name is asked for")
		}
		s := newServedSite(t, e, func(c *tls.Conn) { answerTLS(c, ok200) })
		s.p.OriginTLS = &tls.Config{InsecureSkipVerify: true}
		s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			d := c.Destination
			c.Destination = mitm.Destination{Addr: d.Addr, TLS: d.TLS, Reply: d.Reply}
			return mitm.Default, nil
		}), mitm.RefuseUnread()}
		config := s.trusting("http/1.1")
		config.ServerName, config.InsecureSkipVerify = "other.test", true
		nc, _, err := s.speak(t, start(t, s.p), config)
		if err != nil {
			t.Fatal(err)
		}
		c := newPeer(t, nc)
		c.send("GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
		want(t, c.read(len("HTTP/1.1 403")), "HTTP/1.1 403")
	})
}
