package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
)

// conformance is one client connection and one to an origin, of which one is of the kind that is
// tested and the other is TCP.
type conformance struct {
	t        *testing.T
	p        *mitm.Proxy
	client   *peer
	far      *peer // the origin's end
	flows    chan *mitm.Flow
	tells    bool // the end of the client's sending side reaches the origin
	returned chan error
	over     sync.Once
}

// eachRole runs f with the kind of connection in either role, with and without hooks.
func eachRole(t *testing.T, f func(c *conformance)) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		for _, dialled := range []bool{false, true} {
			t.Run(map[bool]string{false: "accepted", true: "dialled"}[dialled], func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) { f(newConformance(t, p, k, dialled)) })
			})
		}
	})
}

func newConformance(t *testing.T, p *mitm.Proxy, k connKind, dialled bool) *conformance {
	t.Helper()
	accepted, client := tcpPair(t)
	near, far := tcpPair(t)
	c := &conformance{t: t, p: p, tells: true, returned: make(chan error, 1)}
	if dialled {
		near.Close()
		far.Close()
		near, far = k.pair(t)
		c.tells = k.halfCloses
	} else {
		accepted.Close()
		client.Close()
		accepted, client = k.pair(t)
	}
	done, flows := doneHook()
	c.flows = flows
	p.Hooks = append(p.Hooks, done)
	var once sync.Once
	p.Dial = func(context.Context, string, string) (nc net.Conn, err error) {
		err = errors.New("dialled again")
		once.Do(func() { nc, err = near, nil })
		return nc, err
	}
	c.client, c.far = newPeer(t, client), newPeer(t, far)
	if nc, ok := far.(*tls.Conn); ok {
		go nc.Handshake() // a dial is through when that is
	}
	t.Cleanup(c.end)
	go func() { c.returned <- p.ServeConn(t.Context(), accepted) }()
	return c
}

// end ends everything, and makes sure that nothing is left.
func (c *conformance) end() { c.over.Do(c.endOnce) }

func (c *conformance) endOnce() {
	closed := make(chan bool)
	go func() {
		c.p.Close()
		close(closed)
	}()
	for _, ended := range []func() bool{
		func() bool { _, open := <-closed; return !open },
		func() bool { return <-c.returned == nil },
	} {
		over := make(chan bool, 1)
		go func() { over <- ended() }()
		select {
		case ok := <-over:
			if !ok {
				c.t.Error("ServeConn returned an error")
			}
		case <-time.After(patience):
			c.t.Error("Close or ServeConn does not return")
		}
	}
	c.client.Close()
	c.far.Close()
}

// tunnelsTo are the ways to a tunnel.
var tunnelsTo = map[string]func(c *conformance){
	"CONNECT": func(c *conformance) {
		c.client.send("CONNECT origin.test:7 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		if head := c.client.head(); head != established {
			c.t.Fatalf("CONNECT was answered with %q", head)
		}
	},
	"SOCKS5": func(c *conformance) {
		c.client.send(noAuth)
		if got := c.client.read(2); got != agreed {
			c.t.Fatalf("the greeting was answered with %q", got)
		}
		c.client.send(socksRequest("origin.test:7"))
		if got := c.client.read(10); got != socksReply(0) {
			c.t.Fatalf("SOCKS client was told %q", got)
		}
	},
	"upgrade": func(c *conformance) { c.upgrade("http://origin.test") },
	"upgrade, wrapped by a hook": func(c *conformance) { // set by wrapUpgrades
		c.upgrade("http://origin.test")
	},
	"transparent": func(*conformance) {}, // set by redirect
}

func (c *conformance) upgrade(scheme string) {
	c.client.send("GET " + scheme + "/ HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: noise\r\n\r\n")
	c.far.head()
	c.far.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: noise\r\n\r\n")
	if head := c.client.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") {
		c.t.Fatalf("the upgrade was answered with %q", head)
	}
}

// wrapUpgrades is a hook that wraps the connection of a 101, and can't end one side of it.
func wrapUpgrades() mitm.Hook {
	return mitm.OnResponse(func(res *http.Response) error {
		if res.StatusCode == http.StatusSwitchingProtocols {
			res.Body = struct{ io.ReadWriteCloser }{res.Body.(io.ReadWriteCloser)}
		}
		return nil
	})
}

// Both directions of a tunnel carry what is sent, to its last byte, and end as they should.
func TestR64_ConnsTunnel(t *testing.T) {
	for name, open := range tunnelsTo {
		t.Run(name, func(t *testing.T) {
			eachConnKind(t, func(t *testing.T, k connKind) {
				for _, dialled := range []bool{false, true} {
					t.Run(fmt.Sprint("dialled=", dialled), func(t *testing.T) {
						p := new(mitm.Proxy)
						switch name {
						case "transparent":
							p.Mode = mitm.Transparent{Lookup: func(net.Conn) (netip.AddrPort, error) { return transparentAddr, nil }}
						case "upgrade, wrapped by a hook":
							p.Hooks = []mitm.Hook{wrapUpgrades()}
						}
						c := newConformance(t, p, k, dialled)
						open(c)
						c.tunnel()
					})
				}
			})
		})
	}
}

// tunnel sends in both directions at once, then ends the one and later the other.
func (c *conformance) tunnel() {
	const up, down, tail = 300_000, 400_000, 200_000
	c.client.send("\x00\x01") // which is no HTTP
	if got := c.far.read(2); got != "\x00\x01" {
		c.t.Fatalf("the origin got %q", got)
	}
	var sides sync.WaitGroup
	sides.Go(func() { io.Copy(c.client.Conn, noise(1, up)) })
	sides.Go(func() { io.Copy(c.far.Conn, noise(2, down)) })
	sides.Go(func() {
		if got, want := digest(io.LimitReader(c.far.r, up)), digest(noise(1, up)); got != want {
			c.t.Errorf("the origin got %s, want %s", got, want)
		}
	})
	if got, want := digest(io.LimitReader(c.client.r, down)), digest(noise(2, down)); got != want {
		c.t.Errorf("the client got %s, want %s", got, want)
	}
	sides.Wait()
	half := endSending(c.client.Conn)
	if half && c.tells {
		if rest, err := c.far.rest(); rest != "" || err != nil {
			c.t.Errorf("after the client's end the origin got %q, %v", rest, err)
		}
	}
	sides.Go(func() {
		io.Copy(c.far.Conn, noise(3, tail))
		c.far.Close()
	})
	if got, want := digest(c.client.r), digest(noise(3, tail)); got != want {
		c.t.Errorf("after its end the client got %s, want %s", got, want)
	}
	sides.Wait()
	c.client.Close()
	if f := nextFlow(c.t, c.flows); f.Err != nil {
		c.t.Errorf("flow: %v", f.Err)
	}
}

// Exchanges on connections that are kept carry content both ways.
func TestR64_ConnsExchange(t *testing.T) {
	eachRole(t, func(c *conformance) { c.exchanges("http://origin.test") })
}

// The same in a destination of its own, where the first bytes are looked at.
func TestR64_ConnsTransparent(t *testing.T) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		for _, dialled := range []bool{false, true} {
			t.Run(fmt.Sprint("dialled=", dialled), func(t *testing.T) {
				p := &mitm.Proxy{Mode: mitm.Transparent{Lookup: func(net.Conn) (netip.AddrPort, error) { return transparentAddr, nil }}}
				newConformance(t, p, k, dialled).exchanges("")
			})
		}
	})
}

// And where a client's TLS is opened, over whatever carries it.
func TestR64_ConnsIntercepted(t *testing.T) {
	root := newIssuer(t, "root")
	cert := root.leaf("origin.test", newKey(t), nil)
	ca := newCA(t)
	eachConnKind(t, func(t *testing.T, k connKind) {
		for _, dialled := range []bool{false, true} {
			t.Run(fmt.Sprint("dialled=", dialled), func(t *testing.T) {
				p := &mitm.Proxy{CA: ca, OriginTLS: &tls.Config{RootCAs: root.pool()}}
				c := newConformance(t, p, k, dialled)
				c.client.send("CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
				if head := c.client.head(); head != established {
					t.Fatalf("CONNECT was answered with %q", head)
				}
				inner := tls.Client(c.client.Conn, &tls.Config{ServerName: "origin.test", RootCAs: poolOf(p.CA.Certificate())})
				c.far = newPeer(t, tls.Server(c.far.Conn, &tls.Config{Certificates: []tls.Certificate{cert}}))
				far := make(chan error, 1)
				go func() { far <- c.far.Conn.(*tls.Conn).Handshake() }()
				if err := inner.Handshake(); err != nil {
					t.Fatal(err)
				}
				if err := <-far; err != nil {
					t.Fatal(err)
				}
				c.client = newPeer(t, inner)
				c.exchanges("")
			})
		}
	})
}

func (c *conformance) exchanges(scheme string) {
	const up, down = 150_000, 250_000
	var sides sync.WaitGroup
	defer sides.Wait()
	for i := range byte(3) {
		sides.Go(func() {
			c.far.head()
			if got, want := digest(io.LimitReader(c.far.r, up)), digest(noise(i, up)); got != want {
				c.t.Errorf("the origin got %s, want %s", got, want)
			}
			c.far.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", down))
			io.Copy(c.far.Conn, noise(i+10, down))
		})
		c.client.send(fmt.Sprintf("POST %s/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n", scheme, up))
		io.Copy(c.client.Conn, noise(i, up))
		if head := c.client.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			c.t.Fatalf("got %q", head)
		}
		if got, want := digest(io.LimitReader(c.client.r, down)), digest(noise(i+10, down)); got != want {
			c.t.Errorf("the client got %s, want %s", got, want)
		}
		sides.Wait()
		if f := nextFlow(c.t, c.flows); f.Err != nil {
			c.t.Errorf("flow: %v", f.Err)
		}
	}
}

// HTTP/2 in the clear, with several requests on one connection.
func TestR64_ConnsHTTP2(t *testing.T) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		for _, dialled := range []bool{false, true} {
			t.Run(fmt.Sprint("dialled=", dialled), func(t *testing.T) {
				c := newConformance(t, &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: "origin.test:80"})}, k, dialled)
				var far sync.WaitGroup
				defer far.Wait()
				defer c.end()
				far.Go(func() {
					origin := newH2Peer(t, c.far.Conn, false)
					for s := origin.accept(); s != nil; s = origin.accept() {
						origin.answer(s, strings.Repeat("x", 10_000))
					}
				})
				client := newH2Peer(t, c.client.Conn, true)
				for range 5 {
					s := client.get(":scheme", "http", ":authority", "origin.test")
					if got := s.outcome(); got != "200" || s.body.Len() != 10_000 {
						t.Errorf("%s, %d bytes", got, s.body.Len())
					}
				}
			})
		}
	})
}
