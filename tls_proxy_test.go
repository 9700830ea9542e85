package mitm_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"example.com/mitm"
)

// outerClients are what clients do on a TLS connection to the proxy itself to get to
// site.test:443. They are told with a connection that leads there.
var outerClients = map[string]struct {
	protocol string
	open     func(t *testing.T, c *tls.Conn) net.Conn
}{
	"CONNECT": {"http/1.1", func(t *testing.T, c *tls.Conn) net.Conn {
		tunnel(&peer{Conn: c, t: t}, "site.test:443")
		return c
	}},
	"CONNECT, no ALPN": {"", func(t *testing.T, c *tls.Conn) net.Conn {
		tunnel(&peer{Conn: c, t: t}, "site.test:443")
		return c
	}},
	"SOCKS5": {"", func(t *testing.T, c *tls.Conn) net.Conn {
		io.WriteString(c, noAuth+socksRequest("site.test:443"))
		if got := make([]byte, 12); true {
			io.ReadFull(c, got)
			want(t, string(got), agreed+socksReply(0))
		}
		return c
	}},
	"HTTP/2": {"h2", func(t *testing.T, c *tls.Conn) net.Conn {
		p := newH2Peer(t, c, true)
		s := p.connect("site.test:443")
		want(t, valueOf(s.head, ":status"), "200")
		return &streamConn{c, p, s}
	}},
}

// streamConn is a stream of HTTP/2 as a connection.
type streamConn struct {
	net.Conn // that carries it
	p        *h2peer
	s        *h2stream
}

func (c *streamConn) Write(b []byte) (int, error) {
	for rest := string(b); rest != ""; {
		if !c.p.until(func() bool { return c.p.room(c.s.id) > 0 || c.s.over() }) || c.s.over() {
			return 0, syscall.EPIPE
		}
		n := min(len(rest), int(c.p.room(c.s.id)))
		c.p.data(c.s.id, false, rest[:n])
		rest = rest[n:]
	}
	return len(b), nil
}

func (c *streamConn) Read(b []byte) (int, error) {
	c.p.until(func() bool { return c.s.body.Len() > 0 || c.s.over() })
	if c.s.body.Len() == 0 && !c.s.ended {
		return 0, syscall.ECONNRESET
	}
	return c.s.body.Read(b)
}

// Clients may speak TLS to the proxy itself, and TLS inside that is opened.
func TestSecureProxy(t *testing.T) {
	for name, outer := range outerClients {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				s := newSite(t, entries[0])
				s.p.Hooks = []mitm.Hook{noChange()}
				connect := startSecure(t, s.p, strings.Fields(outer.protocol)...)
				for range 2 {
					outside := connect()
					want(t, outside.ConnectionState().NegotiatedProtocol, outer.protocol)
					c := tls.Client(outer.open(t, outside), s.trusting(protocol))
					if protocol == "h2" {
						stream := newH2Peer(t, c, true).get(":path", "/x")
						want(t, stream.outcome()+stream.body.String(), "200HTTP/2.0 /x")
					} else {
						want(t, askTLS(t, c, "/x"), "HTTP/1.1 /x")
						want(t, askTLS(t, c, "/y"), "HTTP/1.1 /y")
					}
					want(t, c.ConnectionState().NegotiatedProtocol, protocol)
				}
			})
		}
	}
}

// What is not TLS inside is relayed, and ends on both sides as it should.
func TestSecureProxyTunnel(t *testing.T) {
	for name, outer := range outerClients {
		if name == "HTTP/2" {
			continue // its streams have no half close
		}
		t.Run(name, func(t *testing.T) {
			for _, ca := range []*mitm.CA{nil, newCA(t)} {
				s := newRawSite(t, entries[0], origin(t, func(c *peer) {
					got, err := c.rest()
					c.send("got " + got)
					if err != nil {
						t.Errorf("the origin got %v", err)
					}
				}))
				s.p.CA = ca
				c := outer.open(t, startSecure(t, s.p, strings.Fields(outer.protocol)...)())
				io.WriteString(c, "\x00all")
				c.(*tls.Conn).CloseWrite()
				if got, err := io.ReadAll(c); string(got) != "got \x00all" || err != nil {
					t.Errorf("the client got %q, %v", got, err)
				}
			}
		})
	}
}

// Requests in the clear, as far as the origin is concerned, are proxied over TLS too.
func TestSecureProxyAbsoluteForm(t *testing.T) {
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		connect := startSecure(t, p, "h2", "http/1.1")
		stream := newH2Peer(t, connect(), true).get(":scheme", "http", ":authority", addr, ":path", "/a")
		want(t, stream.outcome()+stream.body.String(), "200ok")
		if got := receive(t, heads); !strings.HasPrefix(got, "GET /a HTTP/1.1\r\nHost: "+addr+"\r\n") {
			t.Errorf("the origin got %q", got)
		}
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := startSecure(t, p, "http/1.1")()
		r := &peer{c, t, bufio.NewReader(c)}
		for range 2 {
			r.send("GET http://" + addr + "/a HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
			r.wantStatus(200)
			want(t, receive(t, heads), "GET /a HTTP/1.1\r\nHost: "+addr+"\r\n\r\n")
		}
	})
}

// The pages of the proxy's own are there, too.
func TestSecureProxyPages(t *testing.T) {
	p, _ := newPages(t, nil)
	connect := startSecure(t, p, "h2", "http/1.1")
	for _, scheme := range []string{"http", "https"} {
		stream := newH2Peer(t, connect(), true).get(":scheme", scheme, ":authority", "mitm.invalid", ":path", "/cert.pem")
		want(t, stream.outcome()+stream.body.String(), "200"+string(p.CA.PEM()))
	}
}

// A response that ends with its connection ends with a close_notify if it is complete.
func TestR27_SecureProxy(t *testing.T) {
	for name, complete := range map[string]bool{"end": true, "reset": false} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				seen := make(chan bool, 1)
				addr := origin(t, func(c *peer) {
					c.head()
					c.send("HTTP/1.1 200 OK\r\n\r\nall?")
					<-seen
					if !complete {
						c.Conn.(*net.TCPConn).SetLinger(0)
					}
				})
				c := newPeer(t, startSecure(t, p, "http/1.1")())
				c.send(getRequest(addr))
				c.head()
				c.read(4)
				seen <- true
				if _, err := c.rest(); (err == nil) != complete {
					t.Errorf("the client's connection ended with %v", err)
				}
			})
		})
	}
}

// openingProxy opens TLS and believes every origin.
func openingProxy() *mitm.Proxy {
	ca, err := mitm.NewCA("")
	if err != nil {
		panic(err)
	}
	return &mitm.Proxy{CA: ca, OriginTLS: &tls.Config{InsecureSkipVerify: true}}
}

// What an idle connection takes whose TLS is opened is bounded.
func TestIdleOpened(t *testing.T) {
	clients := int64(500) // and as many connections to the origin, which are kept
	if raceEnabled() {
		clients = 100
	}
	root := newIssuer(t, "root")
	f := newFarm(t)
	f.serve("site.test", &tls.Config{Certificates: []tls.Certificate{root.leaf("site.test", newKey(t), nil)}})
	for _, protocol := range []string{"http/1.1", "h2"} {
		t.Run(protocol, func(t *testing.T) {
			process := startProcessOf(t, "opening")
			config := &tls.Config{ServerName: "site.test", InsecureSkipVerify: true, NextProtos: []string{protocol}}
			open := func() *tls.Conn {
				c := tls.Client(connect(t, process.addr, f.addrs["site.test"], "").Conn, config)
				if protocol == "h2" {
					p := newH2Peer(t, c, true)
					p.want(p.get(":authority", "site.test"), "200")
				} else {
					askTLS(t, c, "/")
				}
				return c
			}
			open() // what all share
			before := process.stats()
			var mu sync.Mutex
			var all []*tls.Conn
			var openers sync.WaitGroup
			for range 4 {
				openers.Go(func() {
					for range clients / 4 {
						c := open()
						mu.Lock()
						all = append(all, c)
						mu.Unlock()
					}
				})
			}
			openers.Wait()
			after := process.stats()
			perClient := (after.Heap - before.Heap) / clients
			t.Logf("per connection: %d bytes of heap and stacks, %d bytes resident, %d sockets in all (with the race detector: %v)",
				perClient, (after.Resident-before.Resident)/clients, after.Sockets-before.Sockets, raceEnabled())
			if perClient > 100<<10 && !raceEnabled() {
				t.Error("that is too much")
			}
			for _, c := range all {
				c.Close()
			}
			process.settled(before.Sockets+int(clients), before)
		})
	}
}
