package mitm_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// movable makes the site one that moves to another address while the proxy runs.
func (s *openedSite) movable() (move func(addr string)) {
	at := new(atomic.Value)
	at.Store(s.addrs["site.test"])
	s.p.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at.Load().(string))
	}
	return func(addr string) { at.Store(addr) }
}

// What one client found at an address does not keep another from hearing a server there that speaks
// first: in cleartext, after HTTPS of either version.
func TestR74_ServerFirstAfterHTTPS(t *testing.T) {
	t.Parallel()
	banner := origin(t, func(c *peer) {
		c.send("SSH-2.0-server\r\n")
		c.rest()
	})
	eachEntry(t, func(t *testing.T, e entry) {
		for _, protocol := range []string{"http/1.1", "h2"} {
			s := newVerifiedSite(t, e, "site.test")
			moved := s.movable()
			proxy := start(t, s.p)
			for range 2 {
				c := s.mustSpeak(t, proxy, s.trusting(protocol))
				want(t, c.ConnectionState().NegotiatedProtocol, protocol)
				c.Close()
			}
			moved(banner)
			for range 2 {
				want(t, e.open(t, proxy, "").read(16), "SSH-2.0-server\r\n")
			}
		}
	})
}

// The same inside TLS, for a client that negotiates nothing.
func TestR74_ServerFirstInsideTLSAfterHTTPS(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		s := newVerifiedSite(t, e, "site.test")
		moved := s.movable()
		other := newServedSite(t, e, func(c *tls.Conn) {
			c.Write([]byte("220 hello\r\n"))
			echoTLS(c)
		})
		s.p.OriginTLS.RootCAs.AddCert(other.root.cert)
		proxy := start(t, s.p)
		s.mustSpeak(t, proxy, s.trusting("http/1.1")).Close()
		moved(other.addrs["site.test"])
		want(t, newPeer(t, s.mustSpeak(t, proxy, s.trusting())).read(11), "220 hello\r\n")
	})
}

// A client that speaks at once costs no connection before its request: there may be one already.
func TestR74_KnownHTTPSIsNotDialledEarly(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		s := newVerifiedSite(t, e, "site.test")
		dialled := make(chan string, 64)
		s.p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dialled <- addr
			return s.dial(ctx, network, addr)
		}
		proxy := start(t, s.p)
		for i := range 5 {
			before := len(dialled)
			c := s.mustSpeak(t, proxy, s.trusting("http/1.1"))
			if i > 0 && len(dialled) > before {
				t.Error("it was dialled before the request")
			}
			askTLS(t, c, "/")
			c.Close()
		}
	})
}

// What a server of HTTP says without having been asked is recognised in pieces too, so that its client's
// requests are for hooks.
func TestR61_ServerFirstInPieces(t *testing.T) {
	for name, pieces := range map[string][2]string{
		"SETTINGS":         {"\x00\x00\x00", "\x04\x00\x00\x00\x00\x00"},
		"SETTINGS, 1 byte": {"\x00", "\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"},
		"408":              {"HT", "TP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"},
	} {
		for _, w := range unseenWays() {
			if w.tls {
				continue
			}
			t.Run(name+" "+w.name, func(t *testing.T) {
				ca := newCA(t)
				synctest.Test(t, func(t *testing.T) {
					got := make(chan string, 1)
					p := &mitm.Proxy{Mode: w.mode, CA: ca, Hooks: []mitm.Hook{refuseAll()}}
					p.Dial = func(context.Context, string, string) (net.Conn, error) {
						near, far := memPipe()
						go func() {
							io.WriteString(far, pieces[0])
							time.Sleep(time.Second)
							io.WriteString(far, pieces[1])
							b, _ := io.ReadAll(far)
							far.Close()
							got <- string(b)
						}()
						return near, nil
					}
					c := serveMem(t, p)
					c.send(w.hello)
					c.read(w.reply)
					time.Sleep(5 * time.Second)
					c.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
					want(t, c.read(len("HTTP/1.1 403")), "HTTP/1.1 403")
					p.Close()
					want(t, receive(t, got), "")
				})
			})
		}
	}
}

// What only begins like that is relayed after a while.
func TestServerFirstLikeHTTP(t *testing.T) {
	for _, banner := range []string{"H", "HTTP/", "\x00\x00\x00", "\x00\x00\x00\x04\x00"} {
		synctest.Test(t, func(t *testing.T) {
			p := &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: "site.test:1"}), Hooks: []mitm.Hook{refuseAll()}}
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				near, far := memPipe()
				go func() {
					io.WriteString(far, banner)
					io.Copy(far, far)
					far.Close()
				}()
				return near, nil
			}
			c := serveMem(t, p)
			want(t, c.read(len(banner)), banner)
			c.send("hello\n")
			want(t, c.read(6), "hello\n")
		})
	}
}
