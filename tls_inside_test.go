package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"

	"example.com/mitm"
)

// newServedSite has a server that speaks TLS, without ALPN, and runs serve for each connection.
func newServedSite(t *testing.T, e entry, serve func(c *tls.Conn)) *openedSite {
	t.Helper()
	s := newRawSite(t, e, "")
	config := &tls.Config{Certificates: []tls.Certificate{s.root.leaf("site.test", newKey(t), nil)}}
	addr := origin(t, func(c *peer) {
		if tc := tls.Server(c.Conn, config); tc.Handshake() == nil {
			serve(tc)
		}
	})
	s.addrs["site.test"], s.addrs[transparentAddr.Addr().String()] = addr, addr
	return s
}

func echoTLS(c *tls.Conn) {
	io.Copy(c, c)
	c.Close()
}

// insides are what may be spoken inside TLS without ALPN: the origin's part and the client's.
var insides = map[string]struct {
	http  bool // it is read
	serve func(c *tls.Conn)
	ask   func(t *testing.T, c *tls.Conn)
}{
	"HTTP/1": {true, func(c *tls.Conn) { answerTLS(c, ok200) }, func(t *testing.T, c *tls.Conn) {
		want(t, askTLS(t, c, "/"), "ok")
	}},
	"HTTP/2": {true, func(c *tls.Conn) { answerTLS(c, ok200) }, func(t *testing.T, c *tls.Conn) {
		stream := newH2Peer(t, c, true).get()
		want(t, stream.outcome()+stream.body.String(), "200ok")
	}},
	"binary": {false, echoTLS, func(t *testing.T, c *tls.Conn) {
		for range 3 {
			io.WriteString(c, "\x00\x01binary")
			want(t, newPeer(t, c).read(8), "\x00\x01binary")
		}
	}},
	"text": {false, echoTLS, func(t *testing.T, c *tls.Conn) {
		io.WriteString(c, "HELO me\r\n")
		want(t, newPeer(t, c).read(9), "HELO me\r\n")
	}},
	"server first": {false, func(c *tls.Conn) {
		io.WriteString(c, "220 hello\r\n")
		echoTLS(c)
	}, func(t *testing.T, c *tls.Conn) {
		want(t, newPeer(t, c).read(11), "220 hello\r\n")
		io.WriteString(c, "QUIT\r\n")
		want(t, newPeer(t, c).read(6), "QUIT\r\n")
	}},
	"TLS in TLS": {false, echoTLS, func(t *testing.T, c *tls.Conn) {
		hello := smallHello("inner.test")
		io.WriteString(c, hello)
		want(t, newPeer(t, c).read(len(hello)), hello)
	}},
}

// Inside TLS it is found out again what is spoken: HTTP is read, anything else relayed.
func TestSniffInsideTLS(t *testing.T) {
	for name, inside := range insides {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newServedSite(t, e, inside.serve)
					requests := make(chan string, 1)
					done, flows := doneHook()
					s.p.Hooks = []mitm.Hook{done, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
						requests <- req.Proto
						return nil, nil
					})}
					c := s.mustSpeak(t, start(t, s.p), only(s.trusting(), version))
					inside.ask(t, c)
					c.Close()
					f := nextFlow(t, flows)
					if inside.http {
						want(t, f.Method+" "+receive(t, requests), map[string]string{"HTTP/1": "GET HTTP/1.1", "HTTP/2": "GET HTTP/2.0"}[name])
					}
					if f.Tunnel == inside.http || len(requests) > 0 || f.Conn.ClientHello == nil {
						t.Errorf("%d requests; flow: tunnel %v, %v", len(requests), f.Tunnel, f.Conn.ClientHello)
					}
					want(t, f.Conn.ServerName, "site.test")
				})
			})
		}
	}
}

// What is not TLS is served as well where TLS would be opened.
func TestSniffNoTLS(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		for name, test := range map[string]struct {
			serve     func(c *peer)
			say, hear string
		}{
			"HTTP":         {func(c *peer) { c.head(); c.send(ok200) }, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n", ok200},
			"binary":       {func(c *peer) { io.Copy(c.Conn, c.r) }, "\x00\x01\x02", "\x00\x01\x02"},
			"server first": {func(c *peer) { c.send("220 hello\r\n") }, "", "220 hello\r\n"},
		} {
			for _, early := range []bool{true, false} {
				s := newRawSite(t, e, origin(t, test.serve))
				s.p.Hooks = []mitm.Hook{noChange()}
				say := map[bool]string{early: test.say}
				c := e.open(t, start(t, s.p), say[true])
				c.send(say[false])
				if got := c.read(len(test.hear)); got != test.hear {
					t.Errorf("%s: got %q", name, got)
				}
			}
		}
	})
}

// Who has nothing more to send says so by a close_notify, and still gets the rest; then the
// other side may do the same.
func TestTLSHalfClose(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		ends := make(chan error, 1)
		clientFirst := newServedSite(t, e, func(c *tls.Conn) {
			got, err := io.ReadAll(c)
			ends <- err
			io.WriteString(c, "got "+string(got))
			c.Close()
		})
		c := clientFirst.mustSpeak(t, start(t, clientFirst.p), clientFirst.trusting())
		io.WriteString(c, "\x00all")
		c.CloseWrite()
		if err := receive(t, ends); err != nil {
			t.Errorf("the origin got %v", err)
		}
		if got, err := io.ReadAll(c); string(got) != "got \x00all" || err != nil {
			t.Errorf("the client got %q, %v", got, err)
		}
		originFirst := newServedSite(t, e, func(c *tls.Conn) {
			io.WriteString(c, "bye")
			c.CloseWrite()
			got, err := io.ReadAll(c)
			if string(got) != "you too" {
				t.Errorf("the origin got %q", got)
			}
			ends <- err
		})
		c = originFirst.mustSpeak(t, start(t, originFirst.p), originFirst.trusting())
		if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
			t.Errorf("the client got %q, %v", got, err)
		}
		io.WriteString(c, "you too")
		c.Close()
		if err := receive(t, ends); err != nil {
			t.Errorf("the origin got %v", err)
		}
	})
}

// tcpOf is what c runs on.
func tcpOf(c *tls.Conn) *net.TCPConn {
	switch nc := c.NetConn().(type) {
	case *helloConn:
		return nc.Conn.(*net.TCPConn)
	default:
		return nc.(*net.TCPConn)
	}
}

// An end without a close_notify is no end: it is passed on as something that can't be taken
// for one.
func TestR21_TruncationInTLS(t *testing.T) {
	cuts := map[string]func(c *tls.Conn){
		"end":   func(c *tls.Conn) { tcpOf(c).CloseWrite() },
		"reset": func(c *tls.Conn) { tcpOf(c).SetLinger(0); tcpOf(c).Close() },
	}
	isCut := func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) }
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				done, flows := doneHook()
				ends := make(chan error, 1)
				began := make(chan bool, 1)
				byClient := newServedSite(t, e, func(c *tls.Conn) {
					c.Read(make([]byte, 1))
					began <- true
					_, err := io.ReadAll(c)
					ends <- err
				})
				byClient.p.Hooks = []mitm.Hook{done}
				c := byClient.mustSpeak(t, start(t, byClient.p), byClient.trusting())
				io.WriteString(c, "\x00a part")
				receive(t, began)
				cut(c)
				if err := receive(t, ends); !isCut(err) {
					t.Errorf("the origin got %v", err)
				}
				if f := nextFlow(t, flows); f.Err == nil {
					t.Error("the client's cut is not in the flow")
				}
				byOrigin := newServedSite(t, e, func(c *tls.Conn) {
					io.WriteString(c, "a part")
					<-began
					cut(c)
					io.Copy(io.Discard, c.NetConn())
				})
				byOrigin.p.Hooks = []mitm.Hook{done}
				c = byOrigin.mustSpeak(t, start(t, byOrigin.p), byOrigin.trusting())
				want(t, newPeer(t, c).read(6), "a part")
				began <- true
				if _, err := io.ReadAll(c); !isCut(err) {
					t.Errorf("the client got %v", err)
				}
				if f := nextFlow(t, flows); f.Err == nil {
					t.Error("the origin's cut is not in the flow")
				}
			})
		})
	}
}

// A response that ends with its connection ends with a close_notify if it is complete, and
// without one if not.
func TestR27_CloseNotifyToClient(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\n"
	for name, test := range map[string]struct {
		response string
		end      func(c *tls.Conn)
		complete bool
	}{
		"close_notify":      {head + "\r\nall", func(c *tls.Conn) { c.Close() }, true},
		"end":               {head + "\r\nall?", func(c *tls.Conn) { tcpOf(c).CloseWrite() }, false},
		"reset":             {head + "\r\nall?", func(c *tls.Conn) { tcpOf(c).SetLinger(0); tcpOf(c).Close() }, false},
		"length and closed": {head + "Content-Length: 3\r\nConnection: close\r\n\r\nall", func(c *tls.Conn) { c.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, hooks := range [][]mitm.Hook{nil, {noChange()}} {
				eachEntry(t, func(t *testing.T, e entry) {
					seen := make(chan bool, 1)
					s := newServedSite(t, e, func(c *tls.Conn) {
						answerTLS(c, test.response)
						<-seen
						test.end(c)
					})
					s.p.Hooks = hooks
					c := s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1"))
					p := newPeer(t, c)
					p.send("GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n")
					p.head()
					seen <- true
					got, err := p.rest()
					if (err == nil) != test.complete || test.complete && got != "all" {
						t.Errorf("%d hooks: got %q, %v", len(hooks), got, err)
					}
				})
			}
		})
	}
}

// A hook that has the ClientHello may find that TLS ends at the proxy: then the origin is
// spoken to in the clear, whoever begins.
func TestTLSEndsHere(t *testing.T) {
	for name, test := range map[string]struct {
		serve     func(c *peer)
		say, hear string
	}{
		"HTTP":         {func(c *peer) { c.head(); c.send(ok200) }, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n", ok200},
		"binary":       {func(c *peer) { io.Copy(c.Conn, c.r) }, "\x00\x01\x02", "\x00\x01\x02"},
		"server first": {func(c *peer) { c.rest() }, "", "220 hello\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				begin := make(chan bool, 1)
				s := newRawSite(t, e, origin(t, func(c *peer) {
					if test.say == "" { // not before the client is in TLS
						<-begin
						c.send(test.hear)
					}
					test.serve(c)
				}))
				requests := make(chan string, 1)
				s.p.Hooks = []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
					requests <- req.URL.String()
					return nil, nil
				}), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
					if c.Protocol == mitm.TLS {
						c.Destination.TLS = false
					}
					return mitm.Default, nil
				})}
				c := s.mustSpeak(t, start(t, s.p), s.trusting())
				begin <- true
				io.WriteString(c, test.say)
				want(t, newPeer(t, c).read(len(test.hear)), test.hear)
				if read := len(requests) == 1; read != (name == "HTTP") {
					t.Errorf("%d requests were read", len(requests))
				}
			})
		})
	}
}
