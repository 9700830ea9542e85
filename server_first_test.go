package mitm_test

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"testing"
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
