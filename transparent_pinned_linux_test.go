package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// A hook leaves the TLS to certain names alone: the client sees the certificate of the origin
// itself, and the proxy nothing.
func TestInsideTunnelByName(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		site := l.secureWeb(t, root, ip, 1, nil, "open.test", "pinned.test")
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Hooks = append(p.Hooks, mitm.OnConn(tunnelPinned))
			flows := opening(p, ca, root)
			l.start(t, p, w)
			eachSecureClient(t, func(t *testing.T, c secureClient) {
				for host, roots := range map[string]*x509.CertPool{"open.test": trusted, site.host: trusted, "pinned.test": root.pool()} {
					client, transport := l.client.secure(c, "", site.addr, roots)
					res, err := client.Get("https://" + host + "/")
					if body := content(t, res, err); !strings.HasPrefix(body, c.protocol+" for "+host+", ") {
						t.Errorf("got %q", body)
					}
					await(t, site.asks)
					pinned := host == "pinned.test"
					if got := res.TLS.PeerCertificates[0].Equal(site.cert); got != pinned {
						t.Errorf("%s: the origin's own certificate: %v", host, got)
					}
					transport.CloseIdleConnections()
					f := nextFlow(t, flows)
					if pinned {
						wantTunnel(t, f, site.addr)
					} else {
						wantOpened(t, f, site, strings.TrimSuffix(host, site.host))
					}
				}
			})
		})
	})
}

// wantTunnel looks at a tunnel that the client ended. The origin may have said something after
// that, such as close_notify, for which it gets a reset.
func wantTunnel(t *testing.T, f *mitm.Flow, addr string) {
	t.Helper()
	if !f.Tunnel || f.Err != nil && !errors.Is(f.Err, syscall.ECONNRESET) && !errors.Is(f.Err, syscall.EPIPE) || f.Conn.Destination.Addr != addr {
		t.Errorf("flow to %s: tunnel %v, %v", f.Conn.Destination.Addr, f.Tunnel, f.Err)
	}
}

func tunnelPinned(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
	if c.ServerName == "pinned.test" {
		return mitm.Tunnel, nil
	}
	return mitm.Default, nil
}

// What is tunnelled by its name is the same bytes from the first on, however the hello is cut,
// and the kernel moves them.
func TestInsideTunnelSpliced(t *testing.T) {
	const n = 16 << 20
	l, root, ca, _ := secureLabs(t)
	cert := root.leaf("pinned.test", newKey(t), nil)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 443)
		hellos, heard := make(chan string, 1), make(chan string, 1)
		l.serve(t, addr, func(c *peer) {
			rec := &readTap{Conn: c.Conn}
			tc := tls.Server(rec, &tls.Config{Certificates: []tls.Certificate{cert}})
			if tc.Handshake() != nil {
				return
			}
			hellos <- string(rec.seen)
			heard <- digest(io.LimitReader(tc, n))
			io.Copy(tc, noise(2, n))
			tc.CloseWrite()
		})
		for _, record := range []int{1 << 14, 50} {
			t.Run(fmt.Sprint(record), func(t *testing.T) {
				seen := make(chan string, 1)
				p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnConn(func(ctx context.Context, c *mitm.Conn) (mitm.Action, error) {
					if c.Protocol == mitm.TLS {
						seen <- string(c.RawClientHello)
					}
					return tunnelPinned(ctx, c)
				})}}
				flows := opening(p, ca, root)
				l.start(t, p, w)
				nc := l.client.dial(t, "", addr).Conn
				nc.SetDeadline(time.Now().Add(3 * patience))
				sent := &writeTap{Conn: nc}
				c := tls.Client(&splitHello{Conn: sent, record: record}, &tls.Config{ServerName: "pinned.test", RootCAs: root.pool()})
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
				hello := await(t, seen)
				if got := await(t, hellos); len(hello) < 100 || !strings.HasPrefix(got, hello) || !strings.HasPrefix(string(sent.seen), got) {
					t.Errorf("the client sent %q, the hook saw %q, the origin got %q", sent.seen, hello, got)
				}
				before := copied()
				io.Copy(c, noise(1, n))
				want(t, await(t, heard), digest(noise(1, n)))
				want(t, digest(c), digest(noise(2, n)))
				// The client and the server are in this process too: they write and read all once, as
				// a relay does that copies. Half of a direction is more than there is any reason for.
				byProxy := copied() - before - 4*n
				if t.Logf("copied %d bytes, of %d to be read and written", byProxy, 4*n); byProxy > n {
					t.Error("too much was copied")
				}
				nc.Close()
				f := nextFlow(t, flows)
				wantTunnel(t, f, addr)
				if f.Sent() < n || f.Received() < n {
					t.Errorf("flow: %d up, %d down", f.Sent(), f.Received())
				}
			})
		}
	})
}

// tapSize is how much the taps keep: a ClientHello and more.
const tapSize = 16 << 10

// readTap keeps what is read first.
type readTap struct {
	net.Conn
	seen []byte
}

func (c *readTap) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.seen = append(c.seen, p[:min(n, tapSize-len(c.seen))]...)
	return n, err
}

// writeTap keeps what is written first.
type writeTap struct {
	net.Conn
	seen []byte
}

func (c *writeTap) Write(p []byte) (int, error) {
	c.seen = append(c.seen, p[:min(len(p), tapSize-len(c.seen))]...)
	return c.Conn.Write(p)
}

// A client that insists on the origin's own certificate is told apart, and gets it the next time
// if the proxy is to give way.
func TestInsideRefusedTLS(t *testing.T) {
	l, root, ca, _ := secureLabs(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		site := l.secureWeb(t, root, ip, 1, nil, "site.test")
		eachSecureClient(t, func(t *testing.T, c secureClient) {
			p := &mitm.Proxy{TunnelPinned: time.Hour}
			flows := opening(p, ca, root)
			l.start(t, p, w)
			for _, host := range []string{"site.test", site.host} {
				client, transport := l.client.secure(c, "", site.addr, root.pool())
				if _, err := client.Get("https://" + host + "/"); !isError[x509.UnknownAuthorityError](err) {
					t.Errorf("the client ended with %v", err)
				}
				if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrCertificateRefused) || f.Conn.Destination.Addr != site.addr {
					t.Errorf("flow to %s: %v", f.Conn.Destination.Addr, f.Err)
				}
				res, err := client.Get("https://" + host + "/")
				content(t, res, err)
				await(t, site.asks)
				if !res.TLS.PeerCertificates[0].Equal(site.cert) {
					t.Error("the certificate is not the origin's own")
				}
				transport.CloseIdleConnections()
				wantTunnel(t, nextFlow(t, flows), site.addr)
			}
			site.untouched(t)
		})
	})
}

// A connection that ends before its ClientHello is complete, or speaks something else on port
// 443, leaves nothing behind and harms no other.
func TestInsideNotQuiteTLS(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		site := l.secureWeb(t, root, ip, 1, nil, "site.test")
		p := &mitm.Proxy{}
		flows := opening(p, ca, root)
		l.start(t, p, w)
		for _, said := range []string{"", "\x16", "\x16\x03\x01\x02\x00\x01\x00\x01", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"} {
			c := l.client.dial(t, "", site.addr)
			c.send(said)
			c.closeWrite()
			c.rest() // may be an alert, or a reset
			if f := nextFlow(t, flows); f.Conn.Destination.Addr != site.addr || f.Conn.ServerName != "" {
				t.Errorf("%q: flow to %s, name %q", said, f.Conn.Destination.Addr, f.Conn.ServerName)
			}
		}
		c := l.client.dial(t, "", site.addr)
		c.send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
		c.wantStatus(400) // of the origin, which is asked in the clear as the client does
		c.Close()
		nextFlow(t, flows)
		client, _ := l.client.secure(secureClient{t, tls.VersionTLS13, "HTTP/2.0"}, "", site.addr, trusted)
		res, err := client.Get("https://site.test/")
		content(t, res, err)
		want(t, await(t, site.asks), "GET /")
		site.untouched(t)
	})
}
