package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

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

// What an origin says unasked on a connection that was dialled early is nobody's answer, on connections
// that are no sockets either.
func TestR22_UnaskedOnEarlyConn(t *testing.T) {
	for _, unasked := range []string{"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", ""} {
		for _, mode := range []mitm.Mode{nil, fixed(mitm.Destination{Addr: "origin.test:80"})} {
			synctest.Test(t, func(t *testing.T) {
				first := true
				p := &mitm.Proxy{Mode: mode, CA: newCA(t), Hooks: []mitm.Hook{noChange()}}
				p.Dial = func(context.Context, string, string) (net.Conn, error) {
					near, far := memPipe()
					if first {
						first = false
						go func() {
							time.Sleep(time.Second)
							io.WriteString(far, unasked)
							far.CloseWrite()
						}()
						return near, nil
					}
					go func() {
						c := newPeer(t, far)
						c.head()
						c.send(ok200)
					}()
					return near, nil
				}
				client, server := memPipe()
				go p.ServeConn(t.Context(), server)
				c := newPeer(t, client)
				if mode == nil {
					tunnel(c, "origin.test:80")
				}
				const request = "POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n"
				begun := 0
				if unasked == "" { // or the end would be passed on
					begun = len("POST / HT")
				}
				c.send(request[:begun])
				time.Sleep(3 * time.Second)
				c.send(request[begun:])
				c.wantStatus(200)
				client.Close()
				p.Close()
			})
		}
	}
}
