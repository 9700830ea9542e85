package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/mitm"
)

// once makes one request over a connection of its own and returns the content of the response
// and whether the session of the client was resumed. The response must have come for that.
func (s *openedSite) once(t *testing.T, proxy string, config *tls.Config) (body string, resumed bool) {
	t.Helper()
	c := s.mustSpeak(t, proxy, config)
	defer c.Close()
	state := c.ConnectionState()
	if state.NegotiatedProtocol == "h2" {
		p := newH2Peer(t, c, true)
		stream := p.get(":authority", "site.test")
		p.want(stream, "200")
		return stream.body.String(), state.DidResume
	}
	return askTLS(t, c, "/"), state.DidResume
}

// eachTLS runs f for both versions of TLS and of HTTP.
func eachTLS(t *testing.T, f func(t *testing.T, version uint16, protocol string)) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(tls.VersionName(version)+" "+protocol, func(t *testing.T) { f(t, version, protocol) })
		}
	}
}

// only returns config for one version, with a session cache.
func only(config *tls.Config, version uint16) *tls.Config {
	config.MinVersion, config.MaxVersion = version, version
	config.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	return config
}

// newResumingSite has a server that answers with whether the proxy resumed its session, and
// closes each connection.
func newResumingSite(t *testing.T, e entry, version uint16) *openedSite {
	t.Helper()
	s := newRawSite(t, e, "")
	config := &tls.Config{Certificates: []tls.Certificate{s.root.leaf("site.test", newKey(t), nil)}, MaxVersion: version}
	s.serveHandler("site.test", config, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Connection", "close")
		fmt.Fprint(w, req.TLS.DidResume)
	}))
	s.addrs[transparentAddr.Addr().String()] = s.addrs["site.test"]
	return s
}

// Sessions are resumed on both legs, over new connections. Whoever wants none has none.
func TestResumption(t *testing.T) {
	off := &tls.Config{SessionTicketsDisabled: true}
	eachTLS(t, func(t *testing.T, version uint16, protocol string) {
		eachEntry(t, func(t *testing.T, e entry) {
			for _, test := range []struct {
				client                 *tls.Config // of the proxy
				originOff              bool
				resumes, originResumes bool
			}{
				{nil, false, true, true},
				{&tls.Config{}, false, true, true},
				{off, false, false, true},
				{nil, true, true, false},
				{off, true, false, false},
			} {
				s := newResumingSite(t, e, version)
				s.p.ClientTLS, s.p.OriginTLS.SessionTicketsDisabled = test.client, test.originOff
				proxy, config := start(t, s.p), only(s.trusting(protocol), version)
				for n := range 4 {
					body, resumed := s.once(t, proxy, config)
					if resumed != (test.resumes && n > 0) || body != fmt.Sprint(test.originResumes && n > 0) {
						t.Errorf("connection %d: resumed %v, with the origin %s; want %v, %v", n, resumed, body, test.resumes, test.originResumes)
					}
				}
			}
		})
	})
}

// A session may be resumed over a connection of another kind, with another protocol inside.
func TestResumptionElsewhere(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newSite(t, entries[0])
		proxy, config := start(t, s.p), only(s.trusting(), version)
		for n, protocol := range []string{"http/1.1", "h2", "http/1.1", ""} {
			config.NextProtos = strings.Fields(protocol)
			s.e = entries[n%2] // CONNECT and SOCKS5
			if _, resumed := s.once(t, proxy, config); resumed != (n > 0) {
				t.Errorf("connection %d: resumed %v", n, resumed)
			}
		}
	}
}

// Of many clients that want a name at the same time, each gets the same leaf.
func TestLeafForManyClients(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		proxy := start(t, s.p)
		var clients sync.WaitGroup
		leaves := make(chan string, 64)
		for range cap(leaves) {
			clients.Go(func() {
				c, _, err := s.speak(t, proxy, s.trusting("h2", "http/1.1"))
				if err != nil {
					t.Error(err)
				} else {
					leaves <- c.ConnectionState().PeerCertificates[0].SerialNumber.String()
				}
				c.Close()
			})
		}
		clients.Wait()
		close(leaves)
		first := <-leaves
		for leaf := range leaves {
			if leaf != first {
				t.Fatal("there are several leaves for a name")
			}
		}
	})
}

// ownCertificates is a ClientTLS with a certificate for own.test, an error for wrong.test, and
// a panic for panic.test.
func (f *farm) ownCertificates() *tls.Config {
	own := f.other.leaf("own.test", newKey(f.t), nil)
	return &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		switch hello.ServerName {
		case "own.test":
			return &own, nil
		case "wrong.test":
			return nil, errors.New("lost the key")
		case "panic.test":
			panic("oops")
		}
		return nil, nil
	}}
}

// shown returns who issued the certificate that a client is shown for a name.
func (s *openedSite) shown(t *testing.T, proxy, name string) (issuer string, err error) {
	t.Helper()
	config := s.trusting()
	config.InsecureSkipVerify, config.ServerName = true, name
	c, _, err := s.speak(t, proxy, config)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].Issuer.CommonName, nil
}

// A certificate of the embedder's own comes before one of the CA. If it can't be had, the
// handshake fails, and the hook is told why.
func TestOwnCertificate(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		log := new(records)
		done, flows := doneHook()
		s.p.ClientTLS, s.p.Logger, s.p.Hooks = s.ownCertificates(), log.logger(), []mitm.Hook{done}
		s.p.OriginTLS.InsecureSkipVerify = true
		proxy := start(t, s.p)
		for name, issuer := range map[string]string{
			"own.test": "other root", "site.test": s.p.CA.Certificate().Subject.CommonName, "": s.p.CA.Certificate().Subject.CommonName,
		} {
			if got, err := s.shown(t, proxy, name); got != issuer || err != nil {
				t.Errorf("%q: a certificate by %q, %v; want %q", name, got, err, issuer)
			}
			if f := nextFlow(t, flows); f.Err == nil || !strings.Contains(f.Err.Error(), "after the handshake") {
				t.Errorf("%q: flow ended with %v", name, f.Err)
			}
		}
		for name, why := range map[string]string{"wrong.test": "lost the key", "panic.test": "panic: oops"} {
			if _, err := s.shown(t, proxy, name); err == nil || err.Error() != "remote error: tls: internal error" {
				t.Errorf("%s: the client is told %v", name, err)
			}
			f := nextFlow(t, flows)
			if op, ok := errors.AsType[*mitm.OpError](f.Err); !ok || op.Op != "client tls" || !strings.Contains(op.Error(), why) {
				t.Errorf("%s: flow ended with %v", name, f.Err)
			}
		}
		if log.count() != 1 {
			t.Errorf("%d log records", log.count())
		}
	})
}

// Without a CA only names that there is a certificate for are opened.
func TestOwnCertificateOnly(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		for _, list := range []bool{false, true} {
			s := newSite(t, e)
			s.p.CA, s.p.ClientTLS = nil, s.ownCertificates()
			if list {
				s.p.ClientTLS = &tls.Config{Certificates: []tls.Certificate{s.other.leaf("own.test", newKey(t), nil)}}
			}
			proxy := start(t, s.p)
			for name, issuer := range map[string]string{"own.test": "other root", "site.test": "good root"} {
				if got, err := s.shown(t, proxy, name); got != issuer || err != nil {
					t.Errorf("list %v: %s: a certificate by %q, %v; want %q", list, name, got, err, issuer)
				}
			}
		}
	})
}

// Clients can be asked for a certificate, which hooks see, with a resumed session too.
func TestClientAuth(t *testing.T) {
	eachTLS(t, func(t *testing.T, version uint16, protocol string) {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newSite(t, e)
			s.p.ClientTLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.other.pool()}
			s.p.Hooks = []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				return text(200, fmt.Sprint(req.TLS.PeerCertificates[0].Subject.CommonName, req.TLS.DidResume)), nil
			})}
			proxy, config := start(t, s.p), only(s.trusting(protocol), version)
			config.Certificates = []tls.Certificate{s.visitor()}
			for n := range 2 {
				body, _ := s.once(t, proxy, config)
				want(t, body, fmt.Sprint("visitor", n > 0))
			}
			c, _, err := s.speak(t, proxy, only(s.trusting(protocol), version))
			if err == nil {
				_, err = c.Read(make([]byte, 1))
			}
			if err == nil || !strings.HasPrefix(err.Error(), "remote error: tls: ") {
				t.Errorf("a client without a certificate got %v", err)
			}
		})
	})
}

// MinVersion of ClientTLS holds.
func TestClientMinVersion(t *testing.T) {
	s := newSite(t, entries[0])
	s.p.ClientTLS = &tls.Config{MinVersion: tls.VersionTLS13}
	proxy := start(t, s.p)
	if _, _, err := s.speak(t, proxy, only(s.trusting(), tls.VersionTLS12)); err == nil || !strings.Contains(err.Error(), "protocol version not supported") {
		t.Errorf("a client of TLS 1.2 got %v", err)
	}
	s.once(t, proxy, only(s.trusting(), tls.VersionTLS13))
}

// StartTLS makes the origin's handshake in place of crypto/tls.
func TestStartTLS(t *testing.T) {
	for protocol, offered := range map[string][]string{"h2": {"h2", "http/1.1"}, "http/1.1": {"http/1.1"}} {
		t.Run(protocol, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newSite(t, e)
				raw := make(chan string, 1)
				s.p.StartTLS = func(ctx context.Context, c *mitm.Conn, nc net.Conn, config *tls.Config) (net.Conn, string, error) {
					raw <- string(c.RawClientHello)
					want(t, config.ServerName, "site.test")
					want(t, c.Destination.Addr, e.addr)
					if !slices.Equal(config.NextProtos, offered) {
						t.Errorf("NextProtos %q, want %q", config.NextProtos, offered)
					}
					tc := tls.Client(nc, config)
					err := tc.HandshakeContext(ctx)
					return struct{ net.Conn }{tc}, tc.ConnectionState().NegotiatedProtocol, err // nobody sees that it is a tls.Conn
				}
				c, hello, err := s.speak(t, start(t, s.p), s.trusting(offered...))
				if err != nil {
					t.Fatal(err)
				}
				want(t, c.ConnectionState().NegotiatedProtocol, protocol)
				want(t, receive(t, raw), string(hello))
				if protocol == "h2" {
					p := newH2Peer(t, c, true)
					stream := p.get(":path", "/x")
					want(t, stream.outcome()+stream.body.String(), "200HTTP/2.0 /x")
				} else {
					want(t, askTLS(t, c, "/x"), "HTTP/1.1 /x")
				}
			})
		})
	}
}

// A StartTLS that fails, or panics, is told to the client like any other failure.
func TestStartTLSFails(t *testing.T) {
	for why, fail := range map[string]func() error{
		"no such fingerprint": func() error { return errors.New("no such fingerprint") },
		"panic: oops":         func() error { panic("oops") },
	} {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newSite(t, e)
			log := new(records)
			done, flows := doneHook()
			s.p.Hooks, s.p.Logger = []mitm.Hook{done}, log.logger()
			s.p.StartTLS = func(context.Context, *mitm.Conn, net.Conn, *tls.Config) (net.Conn, string, error) {
				return nil, "", fail()
			}
			c := s.mustSpeak(t, start(t, s.p), s.trusting())
			io.WriteString(c, "GET /secret HTTP/1.1\r\nHost: site.test\r\n\r\n")
			res, body := newPeer(t, c).response("GET")
			if res.StatusCode != http.StatusBadGateway || strings.Contains(body, "oops") {
				t.Errorf("got %s: %s", res.Status, body)
			}
			f := flowOf(t, flows, "https://"+strings.TrimSuffix(e.addr, ":443")+"/secret")
			wantTLSError(t, f, e.addr)
			if !strings.Contains(f.Err.Error(), why) {
				t.Errorf("flow ended with %v", f.Err)
			}
			if panicked := strings.HasPrefix(why, "panic"); panicked != (log.count() == 1) {
				t.Errorf("%d log records", log.count())
			}
			s.untouched(t, "site.test")
		})
	}
}

// A KeyLogWriter of one leg comes before that of the proxy.
func TestKeyLogPrecedence(t *testing.T) {
	for _, own := range []bool{false, true} {
		s := newSite(t, entries[0])
		both, near, far, client := new(records), new(records), new(records), new(records)
		s.p.KeyLogWriter, s.p.ClientTLS = both, &tls.Config{}
		if own {
			s.p.ClientTLS.KeyLogWriter, s.p.OriginTLS.KeyLogWriter = near, far
		}
		config := s.trusting()
		config.KeyLogWriter = client
		want(t, askTLS(t, s.mustSpeak(t, start(t, s.p), config), "/x"), "HTTP/1.1 /x")
		if n := client.count(); n == 0 || own && (both.count() != 0 || near.count() != n || far.count() != n) ||
			!own && (both.count() != 2*n || near.count() != 0) {
			t.Errorf("own %v: %d lines, and %d and %d for the legs, of %d", own, both.count(), near.count(), far.count(), n)
		}
		if log := near.buf.String(); own && log != client.buf.String() {
			t.Errorf("another key was logged: %s", log)
		}
	}
}

// Tickets that come after the handshake do not make a connection that was dialled early look as if
// it were not quiet.
func TestOriginTickets_AfterHandshake(t *testing.T) {
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				sent := make(chan struct{}, 8)
				config := &tls.Config{ClientAuth: tls.RequestClientCert} // or they come before its end
				addr, roots := tlsOrigin(t, config, func(tc *tls.Conn) {
					sent <- struct{}{}
					answerTLS(tc, ok200)
				}, nil)
				tc := intercept(t, p, addr, roots).tls(protocol)
				receive(t, sent)
				if protocol == "h2" {
					c := newH2Peer(t, tc, true)
					c.want(c.get(), "200")
				} else {
					c := newPeer(t, tc)
					c.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
					c.wantStatus(200)
				}
				if len(sent) > 0 {
					t.Error("the origin got another connection")
				}
			})
		})
	}
}
