package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// answeringHello is a client's connection that answers the first flight of its server with what it likes.
type answeringHello struct {
	net.Conn
	answer string
	writes int
}

var errAnswered = errors.New("answered by something else")

func (c *answeringHello) Write(b []byte) (int, error) {
	if c.writes++; c.writes == 1 {
		return c.Conn.Write(b)
	}
	io.WriteString(c.Conn, c.answer)
	return 0, errAnswered
}

// answerFlight does so with the server's first flight, which has our certificate, and closes.
func answerFlight(t *testing.T, s *openedSite, proxy string, version uint16, answer string) {
	t.Helper()
	c := s.e.open(t, proxy, "")
	defer c.Close()
	if err := tls.Client(&answeringHello{Conn: c.Conn, answer: answer}, only(s.trusting(), version)).Handshake(); !errors.Is(err, errAnswered) {
		t.Errorf("handshake: %v", err)
	}
}

// Any alert but close_notify and user_canceled, when our certificate is there, is a refusal.
func TestR85_Alerts(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for alert, refused := range map[byte]bool{
			0: false, 90: false, 10: true, 40: true, 42: true, 43: true, 44: true, 45: true, 46: true, 47: true, 48: true, 49: true,
			50: true, 51: true, 70: true, 80: true, 86: true, 109: true, 116: true,
		} {
			t.Run(fmt.Sprint(tls.VersionName(version), alert), func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newSite(t, e)
					done, flows := doneHook()
					s.p.Hooks = []mitm.Hook{done}
					answerFlight(t, s, start(t, s.p), version, "\x15\x03\x03\x00\x02\x02"+string(rune(alert)))
					f := nextFlow(t, flows)
					if f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) != refused {
						t.Errorf("flow ended with %v", f.Err)
					}
				})
			})
		}
	}
}

// An alert in answer to nothing, or to another failure, is none.
func TestR85_OtherAlerts(t *testing.T) {
	for name, send := range map[string]func(s *openedSite, proxy string){
		"hello": func(s *openedSite, proxy string) {
			c := s.e.open(t, proxy, smallHello("site.test")[:50]+"\x15\x03\x03\x00\x02\x02\x50")
			c.Close()
		},
		"no certificate": func(s *openedSite, proxy string) {
			c := s.e.open(t, proxy, smallHello("wrong.test"))
			c.send("\x15\x03\x03\x00\x02\x02\x50")
			c.Close()
		},
	} {
		s := newSite(t, entries[0])
		done, flows := doneHook()
		s.p.Hooks, s.p.TunnelPinned, s.p.ClientTLS = []mitm.Hook{done}, time.Hour, s.ownCertificates()
		proxy := start(t, s.p)
		for range 3 {
			send(s, proxy)
			if f := nextFlow(t, flows); errors.Is(f.Err, mitm.ErrCertificateRefused) {
				t.Errorf("%s: flow ended with %v", name, f.Err)
			}
		}
	}
}

// hangUps are ways of clients to show nothing but that they are not content.
var hangUps = map[string]func(t *testing.T, s *openedSite, proxy string, config *tls.Config){
	"close_notify": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		s.mustSpeak(t, proxy, config).Close()
	},
	"end": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		tcpOf(s.mustSpeak(t, proxy, config)).Close()
	},
	"reset": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		c := tcpOf(s.mustSpeak(t, proxy, config))
		c.SetLinger(0)
		c.Close()
	},
	"end in the handshake": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		answerFlight(t, s, proxy, config.MinVersion, "")
	},
	"close_notify in the handshake": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		answerFlight(t, s, proxy, config.MinVersion, "\x15\x03\x03\x00\x02\x01\x00")
	},
	"reset in the handshake": func(t *testing.T, s *openedSite, proxy string, config *tls.Config) {
		c := s.e.open(t, proxy, "")
		tls.Client(&answeringHello{Conn: c.Conn}, only(config, config.MinVersion)).Handshake()
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	},
}

// A client that hangs up has refused the certificate when it does so again, and is tunnelled then.
func TestR85_HangUps(t *testing.T) {
	for name, hangUp := range hangUps {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, protocols := range []string{"", "http/1.1", "h2 http/1.1"} {
				t.Run(name+" "+tls.VersionName(version)+" "+protocols, func(t *testing.T) {
					t.Parallel()
					eachEntry(t, func(t *testing.T, e entry) {
						s := newSite(t, e)
						done, flows := doneHook()
						s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done, unreadHook(t)}, time.Hour
						proxy := start(t, s.p)
						config := func() *tls.Config { return only(s.trusting(strings.Fields(protocols)...), version) }
						for n := range 2 {
							hangUp(t, s, proxy, config())
							f := nextFlow(t, flows)
							op, ok := errors.AsType[*mitm.OpError](f.Err)
							if !ok || op.Op != "client tls" || op.Addr != e.addr || errors.Is(op, mitm.ErrCertificateRefused) != (n > 0) || f.Tunnel {
								t.Errorf("flow %d ended with %v, a tunnel: %v", n, f.Err, f.Tunnel)
							}
						}
						s.p.OriginTLS.InsecureSkipVerify = true
						if got, err := s.shown(t, proxy, "site.test"); got != "good root" || err != nil {
							t.Errorf("then, a certificate by %q, %v", got, err)
						}
						if got, err := s.shown(t, proxy, "other.test"); got == "good root" || err != nil {
							t.Errorf("for another name, a certificate by %q, %v", got, err)
						}
					})
				})
			}
		}
	}
}

// Who sends something accepts the certificate, and is not suspected for connections of that time.
func TestR85_RequestBetween(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newSite(t, e)
			done, flows := doneHook()
			s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
			proxy := start(t, s.p)
			suspicious := func(c *tls.Conn) {
				t.Helper()
				c.Close()
				if f := nextFlow(t, flows); f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) {
					t.Errorf("flow ended with %v", f.Err)
				}
			}
			speak := func() *tls.Conn { return s.mustSpeak(t, proxy, s.trusting(protocol)) }
			for range 3 {
				suspicious(speak())
				early, late := speak(), speak()
				if body, _ := s.once(t, proxy, s.trusting(protocol)); !strings.HasSuffix(body, " /") {
					t.Errorf("got %q", body)
				}
				s.answered(t, flows)
				suspicious(early)
				suspicious(late)
			}
			if got, err := s.shown(t, proxy, "site.test"); got == "good root" || err != nil {
				t.Errorf("a certificate by %q, %v", got, err)
			}
		})
	}
}

// answered expects the flows of a connection that had one request.
func (s *openedSite) answered(t *testing.T, flows chan *mitm.Flow) {
	t.Helper()
	for range map[bool]int{false: 1, true: 2}[s.e.name == "CONNECT"] { // which has its own
		if f := nextFlow(t, flows); f.Err != nil {
			t.Errorf("flow ended with %v", f.Err)
		}
	}
}

// Connections that were opened at once, as browsers do in advance, are one sign.
func TestR85_Preconnections(t *testing.T) {
	s := newSite(t, entries[0])
	done, flows := doneHook()
	s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
	proxy := start(t, s.p)
	var all []*tls.Conn
	for range 6 {
		all = append(all, s.mustSpeak(t, proxy, s.trusting("h2", "http/1.1")))
	}
	for _, c := range all {
		c.Close()
		if f := nextFlow(t, flows); f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) {
			t.Errorf("flow ended with %v", f.Err)
		}
	}
}

// A pin that is compared after the handshake is compared when a session is resumed, too.
func TestR85_ResumedSession(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newResumingSite(t, entries[0], version)
		done, flows := doneHook()
		s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
		proxy, config := start(t, s.p), only(s.trusting("http/1.1"), version)
		s.once(t, proxy, config)
		s.answered(t, flows)
		for n := range 2 {
			c := s.mustSpeak(t, proxy, config)
			if !c.ConnectionState().DidResume {
				t.Error("not resumed")
			}
			c.Close()
			if f := nextFlow(t, flows); f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) != (n > 0) {
				t.Errorf("flow ended with %v", f.Err)
			}
		}
	}
}

// A client that has heard a server that speaks first, and leaves, has no complaint.
func TestR85_ServerFirst(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newServedSite(t, e, func(c *tls.Conn) {
			io.WriteString(c, "220 ready\r\n")
			io.Copy(io.Discard, c)
			c.Close()
		})
		done, flows := doneHook()
		s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
		proxy := start(t, s.p)
		for range 3 {
			c := s.mustSpeak(t, proxy, s.trusting())
			want(t, newPeer(t, c).read(11), "220 ready\r\n")
			c.Close()
			if f := nextFlow(t, flows); f.Err != nil || !f.Tunnel {
				t.Errorf("flow ended with %v, a tunnel: %v", f.Err, f.Tunnel)
			}
		}
	})
}

// Where nothing but HTTP is served it is the same.
func TestR85_Reverse(t *testing.T) {
	e := entry{"reverse", mitm.Reverse{Target: &url.URL{Scheme: "https", Host: "site.test"}}, "site.test:443", func(t testing.TB, proxy, early string) *peer {
		c := dial(t, proxy)
		c.send(early)
		return c
	}}
	for name, hangUp := range hangUps {
		for _, protocol := range []string{"", "http/1.1"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				s := newSite(t, e)
				done, flows := doneHook()
				s.p.Hooks = []mitm.Hook{done}
				proxy := start(t, s.p)
				want(t, askTLS(t, s.mustSpeak(t, proxy, s.trusting()), "/x"), "HTTP/1.1 /x")
				for n := range 2 {
					hangUp(t, s, proxy, only(s.trusting(strings.Fields(protocol)...), tls.VersionTLS13))
					f := nextFlow(t, flows)
					for f.Method == "GET" {
						f = nextFlow(t, flows)
					}
					if f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) != (n > 0) {
						t.Errorf("flow ended with %v", f.Err)
					}
				}
			})
		}
	}
}

// What an origin does to the proxy is nothing that the client did.
func TestR85_OriginFails(t *testing.T) {
	for name, config := range map[string]*tls.Config{
		"alert in the handshake":    {ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12},
		"alert after the handshake": {ClientAuth: tls.RequireAnyClientCert},
		"nobody":                    nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newRawSite(t, entries[0], "127.0.0.1:1")
			if config != nil {
				config.Certificates = []tls.Certificate{s.root.leaf("site.test", newKey(t), nil)}
				s.serve("site.test", config)
			}
			done, flows := doneHook()
			s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
			s.p.TunnelTimeout = time.Second / 4
			proxy := start(t, s.p)
			for range 2 {
				c := s.mustSpeak(t, proxy, s.trusting())
				io.Copy(io.Discard, c) // silent until the proxy ends it
				c.Close()
				if f := nextFlow(t, flows); f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) {
					t.Errorf("flow ended with %v", f.Err)
				}
			}
		})
	}
}

// A suspicion fades, and a client that is only idle raises none.
func TestR85_SuspicionEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		p := &mitm.Proxy{TunnelPinned: time.Hour, Hooks: []mitm.Hook{done}, TunnelTimeout: time.Minute, IdleTimeout: time.Minute}
		i := inMemoryTLS(t, p, &tls.Config{}, func(c *tls.Conn) { io.Copy(io.Discard, c) })
		speak := func(protocol string) *tls.Conn {
			c := &peer{Conn: i.open(), t: t}
			tunnel(c, "example.com:443")
			tc := tls.Client(c.Conn, &tls.Config{ServerName: "example.com", RootCAs: i.roots, NextProtos: strings.Fields(protocol)})
			if err := tc.Handshake(); err != nil {
				t.Fatal(err)
			}
			return tc
		}
		ended := func(refused bool) {
			t.Helper()
			synctest.Wait()
			if f := <-flows; f.Err == nil || errors.Is(f.Err, mitm.ErrCertificateRefused) != refused {
				t.Errorf("flow ended with %v", f.Err)
			}
		}
		for _, protocol := range []string{"", "http/1.1", "h2"} {
			for range 3 {
				c := speak(protocol)
				io.Copy(io.Discard, c) // until the proxy closes
				ended(false)
				c.Close()
			}
		}
		for range 3 {
			speak("http/1.1").Close()
			ended(false)
			time.Sleep(10 * time.Minute)
		}
		speak("http/1.1").Close()
		ended(false)
		time.Sleep(10*time.Minute - 1)
		speak("http/1.1").Close()
		ended(true)
	})
}

// Many clients at once that are suspected, refuse and accept.
func TestR85_Concurrent(t *testing.T) {
	s := newSite(t, entries[0])
	s.p.TunnelPinned = time.Hour
	s.p.OriginTLS.InsecureSkipVerify = true
	proxy := start(t, s.p)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			for n := range 6 {
				config := s.trusting("http/1.1")
				config.ServerName, config.InsecureSkipVerify = fmt.Sprintf("name%d.test", n%3), true
				c, _, err := s.speak(t, proxy, config)
				if err != nil {
					t.Error(err)
					return
				}
				if (i+n)%2 == 0 {
					askTLS(t, c, "/")
				}
				c.Close()
			}
		})
	}
	clients.Wait()
}

// Early data of a session with the origin has an error of its own and is no refusal.
func TestR85_EarlyData(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		done, flows := doneHook()
		s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
		proxy := start(t, s.p)
		for range 2 {
			c := s.e.open(t, proxy, withEarlyData(smallHello("site.test")))
			want(t, c.read(7), "\x15\x03\x03\x00\x02\x02\x6e") // unsupported_extension
			c.Close()
			f := nextFlow(t, flows)
			if f.Err == nil || !strings.Contains(f.Err.Error(), "early data") || !strings.Contains(f.Err.Error(), "8446") || errors.Is(f.Err, mitm.ErrCertificateRefused) {
				t.Errorf("flow ended with %v", f.Err)
			}
		}
	})
}

// withEarlyData adds the extension early_data to a ClientHello that is one record.
func withEarlyData(hello string) string {
	b := []byte(hello + "\x00\x2a\x00\x00")
	for _, at := range []int{3, 7, 49 + len("\x00\x00\x06\x13\x01\xc0\x2b\xc0\x2f\x01\x00") - 6} { // of the record, the message, the extensions
		n := int(b[at])<<8 + int(b[at+1]) + 4
		b[at], b[at+1] = byte(n>>8), byte(n)
	}
	return string(b)
}

// A hook's decision comes first, whatever is suspected.
func TestR85_HookDecides(t *testing.T) {
	s := newSite(t, entries[0])
	s.p.TunnelPinned = time.Hour
	s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.Protocol == mitm.TLS {
			return mitm.Intercept, nil
		}
		return mitm.Default, nil
	})}
	proxy := start(t, s.p)
	issuers := map[string]bool{}
	for range 4 {
		got, err := s.shown(t, proxy, "site.test")
		if err != nil {
			t.Error(err)
		}
		issuers[got] = true
	}
	if issuers["good root"] || len(issuers) != 1 {
		t.Errorf("certificates by %v", slices.Collect(func(yield func(string) bool) {
			for name := range issuers {
				yield(name)
			}
		}))
	}
}
