package mitm_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// Idle connections that their origin closes are closed here too, long before their time.
func TestR67_ClosedWhileIdle(t *testing.T) {
	t.Parallel()
	root := newIssuer(t, "root")
	config := &tls.Config{Certificates: []tls.Certificate{root.leaf("origin.test", newKey(t), nil)}}
	for name, response := range map[string]string{
		"plain": ok200, "TLS": ok200,
		"bound to a client": strings.Replace(ok200, "\r\n", "\r\nWWW-Authenticate: NTLM\r\n", 1),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const many = 40
			secure := name == "TLS"
			var gate, over sync.WaitGroup
			gate.Add(many)
			over.Add(many)
			addr := origin(t, func(c *peer) {
				defer over.Done()
				if secure {
					c = newPeer(t, tls.Server(c.Conn, config))
				}
				c.head()
				gate.Done()
				gate.Wait() // so that each needs a connection of its own
				c.send(response)
				c.closeWrite()
				if secure {
					c.Conn.(*tls.Conn).NetConn().(*net.TCPConn).CloseWrite()
				}
				c.closed()
			})
			p := &mitm.Proxy{IdleTimeout: -1, OriginTLS: &tls.Config{RootCAs: root.pool(), ServerName: "origin.test"}}
			if secure {
				p.Mode = fixed(mitm.Destination{Addr: addr, TLS: true, Protocol: mitm.HTTP1})
			} else {
				p.Mode = fixed(mitm.Destination{Addr: addr, Protocol: mitm.HTTP1})
			}
			proxy := start(t, p)
			for range many {
				c := dial(t, proxy)
				c.send("GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
				defer c.wantStatus(200)
			}
			over.Wait()
		})
	}
}

// Connections that are no sockets are noticed at once.
func TestR67_ClosedWhileIdleInMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := memPipe()
		near, far := memPipe()
		p := &mitm.Proxy{IdleTimeout: -1}
		p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		go p.ServeConn(t.Context(), server)
		io.WriteString(client, plainGet)
		newPeer(t, far).head()
		io.WriteString(far, ok200)
		newPeer(t, client).wantStatus(200)
		far.CloseWrite()
		if _, err := far.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the origin got %v", err)
		}
		client.Close()
		p.Close()
	})
}

// One that is bound to its client is noticed as well, and what it says while it is idle answers nothing.
func TestR67_BoundInMemory(t *testing.T) {
	for name, farewell := range map[string]string{"closed": "", "surplus": "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *mitm.Proxy) {
				p.IdleTimeout = -1
				l := newMemListener()
				var running sync.WaitGroup
				l.serve(&running, func(nc net.Conn) {
					c := newTimelessPeer(t, nc)
					c.head()
					c.send(strings.Replace(ok200, "\r\n", "\r\nWWW-Authenticate: NTLM\r\n", 1))
					time.Sleep(time.Second)
					c.send(farewell)
					nc.(*memConn).CloseWrite()
					c.closed()
				})
				p.Dial = l.Dial
				client, server := memPipe()
				running.Go(func() { p.ServeConn(context.Background(), server) })
				c := newTimelessPeer(t, client)
				for range 2 {
					c.send(headTo("origin.test", "POST", "/", "Content-Length: 0"))
					c.wantStatus(200)
					time.Sleep(time.Minute)
				}
				client.Close()
				p.Close()
				l.Close()
				running.Wait()
			})
		})
	}
}
