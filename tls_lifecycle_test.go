package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// What a ConnHook says of an origin with the ClientHello in hand counts, also if a handshake by
// other rules has begun before.
func TestOriginTLSAtHello(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		f := newSiteFarm(t)
		strict := &tls.Config{RootCAs: f.other.pool()}
		p := &mitm.Proxy{OriginTLS: &tls.Config{RootCAs: f.root.pool()}}
		p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			c.Destination.TLS = true // so that TLS begins at once
			if c.Protocol == mitm.TLS {
				c.Destination.OriginTLS = strict
			}
			return mitm.Default, nil
		})}
		tc, err := siteConn(t, f, p, protocol)
		if err != nil {
			t.Fatal(err)
		}
		if status, content := getSite(t, tc); status != "502" {
			t.Errorf("%s: %s %s", protocol, status, content)
		}
	}
}

// Whoever names others in a certificate that nobody verified is not taken for them.
func TestUnverifiedNamesAreNotMirrored(t *testing.T) {
	f := newFarm(t)
	f.serve("site.test", &tls.Config{Certificates: []tls.Certificate{f.root.leaf("bank.test", newKey(t), nil)}})
	tc, err := siteConn(t, f, &mitm.Proxy{OriginTLS: &tls.Config{InsecureSkipVerify: true}}, "h2")
	if err != nil {
		t.Fatal(err)
	}
	if got := tc.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(got, []string{"site.test"}) {
		t.Errorf("the leaf is for %q", got)
	}
}

// The deadline of the handshake does not outlive it.
func TestHandshakeDeadlineEnds(t *testing.T) {
	for name, inside := range map[string]struct {
		serve func(c *tls.Conn)
		ask   func(c *peer)
	}{
		"relay": {func(c *tls.Conn) { io.Copy(c, c) }, func(c *peer) {
			c.send("\x00hello\n")
			c.read(7)
		}},
		"HTTP/1": {func(c *tls.Conn) {
			for c := (&peer{c, t, bufio.NewReader(c)}); ; c.send(ok200) {
				if _, err := c.tryHead(); err != nil {
					return
				}
			}
		}, func(c *peer) {
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			c.wantStatus(200)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &mitm.Proxy{TLSTimeout: time.Second, ContentTimeout: -1}
				tc := inMemoryTLS(t, p, &tls.Config{}, inside.serve).tls()
				c := &peer{tc, t, bufio.NewReader(tc)}
				for range 3 {
					inside.ask(c)
					time.Sleep(2 * time.Second)
				}
			})
		})
	}
}

// With a CA, too, a server of HTTP/1 gets nothing else.
func TestReverseRelaysNothing(t *testing.T) {
	addr, heads := answering(t, ok200)
	p := &mitm.Proxy{CA: newCA(t), Mode: mitm.Reverse{Target: &url.URL{Scheme: "http", Host: addr}}}
	c := dial(t, start(t, p))
	c.send("G(T / HTTP/1.1\r\nHost: x\r\n\r\n")
	c.wantStatus(400)
	c.closed()
	if len(heads) > 0 {
		t.Errorf("the server got %q", <-heads)
	}
}

// A client that has not asked for anything yet does not hold up a Shutdown.
func TestShutdownBeforeFirstRequestInTLS(t *testing.T) {
	for _, protocol := range []string{"h2", "http/1.1"} {
		addr, roots := handlerOrigin(t, 2, func(http.ResponseWriter, *http.Request) {})
		i := intercept(t, new(mitm.Proxy), addr, roots)
		c := i.tls(protocol)
		shutdown(t, i.proxy)
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: read %d bytes", protocol, n)
		}
	}
}

// gatedConn is a connection on which writes wait once it is shut.
type gatedConn struct {
	net.Conn
	shut   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

func (g *gatedConn) Write(b []byte) (int, error) {
	if g.shut.Load() {
		<-g.closed
		return 0, net.ErrClosed
	}
	return g.Conn.Write(b)
}

func (g *gatedConn) Close() error {
	g.once.Do(func() { close(g.closed) })
	return g.Conn.Close()
}

// A client that does not take a close_notify does not hold up a Shutdown beyond its context.
func TestShutdownOfStuckTLS(t *testing.T) {
	addr, roots := handlerOrigin(t, 1, func(http.ResponseWriter, *http.Request) {})
	p := new(mitm.Proxy)
	i := newInterception(t, p, roots)
	p.Dial = dialTo(addr)
	var running sync.WaitGroup
	defer running.Wait()
	var g *gatedConn
	i.open = func() net.Conn {
		client, server := memPipe()
		g = &gatedConn{Conn: server, closed: make(chan struct{})}
		running.Go(func() { p.ServeConn(context.Background(), g) })
		return client
	}
	askTLS(t, i.tls("http/1.1"), "/")
	g.shut.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("Shutdown does not return")
		g.Close()
	}
}
