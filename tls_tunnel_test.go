package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/mitm"
)

// heardConn keeps what is read.
type heardConn struct {
	net.Conn
	got []byte
}

func (c *heardConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.got = append(c.got, b[:n]...)
	return n, err
}

// newHeardSite has a server that answers one request on each connection, with ok200. It
// sends what it got on the wire to the channel.
func newHeardSite(t *testing.T, e entry, change func(s *openedSite, c *tls.Config)) (s *openedSite, cert tls.Certificate, heard chan string) {
	t.Helper()
	heard = make(chan string, 64)
	s = newRawSite(t, e, "")
	cert = s.root.leaf("site.test", newKey(t), nil)
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	if change != nil {
		change(s, config)
	}
	addr := origin(t, func(c *peer) {
		hc := &heardConn{Conn: c.Conn}
		if tc := tls.Server(hc, config); tc.Handshake() == nil {
			answerTLS(tc, ok200)
			io.Copy(io.Discard, tc)
			tc.Close()
		}
		heard <- string(hc.got)
	})
	s.addrs["site.test"], s.addrs[transparentAddr.Addr().String()] = addr, addr
	return s, cert, heard
}

// needsVisitor makes a server ask for a certificate, and returns one.
func needsVisitor(s *openedSite, c *tls.Config) tls.Certificate {
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, s.other.pool()
	return s.visitor()
}

// visitor is a client's certificate by the other root.
func (f *farm) visitor() tls.Certificate {
	return f.other.leaf("visitor", newKey(f.t), func(c *x509.Certificate) {
		c.Subject.CommonName, c.ExtKeyUsage = "visitor", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
}

// tunnelWay is a way to a tunnel: what a hook answers to the first question and to the second.
type tunnelWay struct {
	first, second mitm.Action
	ca            bool
}

var tunnelWays = map[string]tunnelWay{
	"no CA":                     {mitm.Default, mitm.Default, false},
	"no CA, Tunnel":             {mitm.Tunnel, mitm.Default, false},
	"no CA, Tunnel when asked":  {mitm.Default, mitm.Tunnel, false},
	"Tunnel":                    {mitm.Tunnel, mitm.Default, true},
	"Tunnel for this name only": {mitm.Default, mitm.Tunnel, true},
}

// asksTwice reports whether the hook is asked once more when the ClientHello is there.
func (w tunnelWay) asksTwice(e entry) bool {
	return w.first == mitm.Default && (w.ca || e.name != "CONNECT")
}

// unreadHook fails the test when an exchange is seen.
func unreadHook(t *testing.T) mitm.Hook {
	return mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		t.Errorf("a hook saw %s", req.URL)
		return nil, nil
	})
}

// Who is tunnelled sees the origin's own certificate, and can show one to it; the origin gets
// the ClientHello byte for byte.
func TestTunnelUnopened(t *testing.T) {
	for name, how := range tunnelWays {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					var visitor tls.Certificate
					s, cert, heard := newHeardSite(t, e, func(s *openedSite, c *tls.Config) { visitor = needsVisitor(s, c) })
					raw := make(chan string, 1)
					decides := mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						if c.Protocol == mitm.Unknown {
							return how.first, nil
						}
						if c.ServerName == "site.test" {
							raw <- string(c.RawClientHello)
							return how.second, nil
						}
						return mitm.Default, nil
					})
					done, flows := doneHook()
					s.p.Hooks = []mitm.Hook{decides, unreadHook(t), done}
					if !how.ca {
						s.p.CA = nil
					}
					config := &tls.Config{
						ServerName: "site.test", RootCAs: s.root.pool(), Certificates: []tls.Certificate{visitor},
						MinVersion: version, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"},
					}
					c, hello, err := s.speak(t, start(t, s.p), config)
					if err != nil {
						t.Fatalf("handshake: %v", err)
					}
					want(t, askTLS(t, c, "/"), "ok")
					c.CloseWrite()
					io.Copy(io.Discard, c)
					c.Close()
					if !slices.Equal(c.ConnectionState().PeerCertificates[0].Raw, cert.Leaf.Raw) {
						t.Error("the client sees another certificate")
					}
					if got := receive(t, heard); !strings.HasPrefix(got, string(hello)) {
						t.Errorf("the origin got another ClientHello: %q", got)
					}
					if close(raw); how.asksTwice(e) {
						want(t, <-raw, string(hello))
					} else if _, ok := <-raw; ok {
						t.Error("the hook was asked again")
					}
					if f := nextFlow(t, flows); !f.Tunnel || f.Err != nil || f.Sent() <= int64(len(hello)) || f.Received() == 0 {
						t.Errorf("flow: tunnel %v, %v, %d and %d bytes", f.Tunnel, f.Err, f.Sent(), f.Received())
					}
				})
			})
		}
	}
}

// tunnellingProxy opens TLS, but for the names of pinned hosts.
func tunnellingProxy() *mitm.Proxy {
	ca, err := mitm.NewCA("")
	if err != nil {
		panic(err)
	}
	return &mitm.Proxy{CA: ca, Hooks: []mitm.Hook{noChange(), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.ServerName == "pinned.test" {
			return mitm.Tunnel, nil
		}
		return mitm.Default, nil
	})}}
}

// What goes through the tunnel to a pinned host stays in the kernel.
func TestTunnelUnopenedSplice(t *testing.T) {
	skipUnless(t, runtime.GOOS == "linux", "splice(2) is Linux's")
	const n = 64 << 20
	root := newIssuer(t, "root")
	config := &tls.Config{Certificates: []tls.Certificate{root.leaf("pinned.test", newKey(t), nil)}}
	addr := origin(t, func(c *peer) {
		tc := tls.Server(c.Conn, config)
		io.CopyN(tc, noise(1, n), n)
		tc.Close()
	})
	process := startProcessOf(t, "tunnelling")
	before := process.stats()
	c := tls.Client(connect(t, process.addr, addr, "").Conn, &tls.Config{ServerName: "pinned.test", RootCAs: root.pool()})
	if got, want := digest(c), digest(noise(1, n)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	copied := process.stats().Copied - before.Copied
	if t.Logf("copied %d of %d bytes", copied, n); copied > n/4 {
		t.Error("too much was copied")
	}
}

// rejectsName rejects what asks for a name.
var rejectsName = mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
	if c.ServerName != "" {
		return mitm.Reject, fmt.Errorf("%s is not for you", c.ServerName)
	}
	return mitm.Default, nil
})

// Who is rejected because of the name is told so inside TLS, in either version of HTTP.
func TestRejectName(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1", ""} {
		t.Run(protocol, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newSite(t, e)
				done, flows := doneHook()
				s.p.Hooks = []mitm.Hook{rejectsName, unreadHook(t), done}
				c := s.mustSpeak(t, start(t, s.p), s.trusting(strings.Fields(protocol)...))
				want(t, c.ConnectionState().NegotiatedProtocol, protocol)
				if protocol == "h2" {
					p := newH2Peer(t, c, true)
					p.want(p.get(), "403")
				} else {
					io.WriteString(c, "GET /secret HTTP/1.1\r\nHost: site.test\r\n\r\n")
					(&peer{c, t, newPeer(t, c).r}).wantStatus(http.StatusForbidden)
				}
				c.Close()
				for f := nextFlow(t, flows); ; f = nextFlow(t, flows) {
					if f.Method != "GET" { // the CONNECT
						continue
					}
					if f.Status != http.StatusForbidden || !errors.Is(f.Err, mitm.ErrRejected) || !strings.Contains(f.Err.Error(), "site.test is not") {
						t.Errorf("flow: %d, %v", f.Status, f.Err)
					}
					break
				}
			})
		})
	}
}

// Where TLS is not opened, and where HTTP is not spoken, a reset says it.
func TestRejectNameReset(t *testing.T) {
	for _, e := range entries[1:] { // a CONNECT that is tunnelled is not asked about again
		for _, opens := range []bool{false, true} {
			s := newSite(t, e)
			done, flows := doneHook()
			s.p.Hooks = []mitm.Hook{rejectsName, done}
			if !opens {
				s.p.CA = nil
			}
			var err error
			if proxy := start(t, s.p); opens {
				c := s.mustSpeak(t, proxy, s.trusting())
				io.WriteString(c, "\x00binary")
				_, err = c.Read(make([]byte, 1))
			} else {
				_, _, err = s.speak(t, proxy, s.trusting())
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s, opened %v: the client got %v", e.name, opens, err)
			}
			if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrRejected) || f.Status != 0 {
				t.Errorf("%s, opened %v: flow: %d, %v", e.name, opens, f.Status, f.Err)
			}
		}
	}
}

// A hook that learns the name may send the connection elsewhere. The server that was dialled
// meanwhile gets nothing.
func TestHelloElsewhere(t *testing.T) {
	for _, action := range []mitm.Action{mitm.Default, mitm.Tunnel, mitm.Intercept} {
		eachEntry(t, func(t *testing.T, e entry) {
			s, cert, heard := newHeardSite(t, e, nil)
			wrong, got := recorder(t)
			s.addrs["elsewhere.test"] = s.addrs["site.test"]
			s.addrs["site.test"], s.addrs[transparentAddr.Addr().String()] = wrong, wrong
			s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.Protocol != mitm.TLS {
					return mitm.Default, nil
				}
				c.Destination.Addr = "elsewhere.test:443"
				return action, nil
			})}
			config := s.trusting()
			config.RootCAs.AddCert(s.root.cert)
			c, hello, err := s.speak(t, start(t, s.p), config)
			if err != nil {
				t.Fatalf("handshake: %v", err)
			}
			want(t, askTLS(t, c, "/"), "ok")
			c.Close()
			if tunnelled := slices.Equal(c.ConnectionState().PeerCertificates[0].Raw, cert.Leaf.Raw); tunnelled != (action == mitm.Tunnel) {
				t.Errorf("tunnelled %v", tunnelled)
			}
			shutdown(t, s.p)
			if sent := receive(t, heard); strings.HasPrefix(sent, string(hello)) != (action == mitm.Tunnel) {
				t.Errorf("the origin got %q", sent)
			}
			if len(got) > 0 {
				if sent := <-got; sent != "" && sent != " cut" {
					t.Errorf("the first server got %q", sent)
				}
			}
		})
	}
}
