package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"

	"example.com/mitm"
)

// A dial that fails after a handshake that did not wait for it is told inside, whatever was
// learned of the origin before.
func TestDialFailsAfterHandshake(t *testing.T) {
	f, ca := newFarm(t), newCA(t)
	f.serve("site.test", &tls.Config{
		Certificates: []tls.Certificate{f.root.leaf("site.test", newKey(t), nil)}, NextProtos: []string{"http/1.1"},
	})
	dials := make(chan error, 1) // how the next one ends
	proxy := start(t, &mitm.Proxy{
		CA: ca, OriginTLS: &tls.Config{RootCAs: f.root.pool()},
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if err := <-dials; err != nil {
				return nil, err
			}
			return f.dial(ctx, network, addr)
		},
	})
	shake := func(name string, protocols ...string) *peer {
		p := dial(t, proxy)
		tunnel(p, "site.test:443")
		config := &tls.Config{ServerName: name, RootCAs: poolOf(ca.Certificate()), NextProtos: protocols, MaxVersion: tls.VersionTLS12}
		c := tls.Client(p.Conn, config)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return newPeer(t, c)
	}
	ask := func(c *peer, status int) {
		c.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
		c.wantStatus(status)
		c.Close()
	}
	dials <- nil
	ask(shake("site.test", "http/1.1"), 200)
	dials <- errors.New("refused")
	ask(shake("other.test"), 502)
	for range 100 { // no client waits for that origin now
		c := shake("other.test")
		dials <- errors.New("refused")
		ask(c, 502)
	}
}
