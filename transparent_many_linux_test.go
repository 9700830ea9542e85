package mitm_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	n atomic.Int32
}

func (l *countingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return nc, err
}

// startCounted is lab.start with a listener that counts.
func (l *lab) startCounted(t *testing.T, p *mitm.Proxy, w way) (port int, accepted *atomic.Int32) {
	t.Helper()
	listener, err := w.mode.Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	p.Mode = w.mode
	counting := &countingListener{Listener: listener}
	return l.startOn(t, p, w, counting), &counting.n
}

// loops fails the test unless one of the flows ended because it was a loop.
func loops(t *testing.T, p *mitm.Proxy, flows chan *mitm.Flow) {
	t.Helper()
	p.Close()
	for close(flows); ; {
		f, ok := <-flows
		if !ok {
			t.Error("no flow ended as a loop")
			return
		}
		if errors.Is(f.Err, mitm.ErrLoop) {
			return
		}
	}
}

// Rules that don't spare the proxy's own connections would lead it to itself for ever.
func TestInsideLoop(t *testing.T) {
	l := newLab(t)
	var router *namespace
	everything := way{name: "no exclusion", rules: strings.Replace(local.rules, "meta mark 0x7a return", "", 1)}
	eachFamily(t, everything, func(t *testing.T, ip family) {
		addr := ip.server(1, 80)
		heads := l.web(t, addr)
		for _, said := range []string{"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\x00binary", ""} {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				_, accepted := l.startCounted(t, p, everything)
				if strings.HasPrefix(said, "GET") {
					router.wantFailure(t, addr, said)
				} else {
					router.wantReset(t, addr, said)
				}
				loops(t, p, flows)
				if n := accepted.Load(); n > 8 || len(heads) > 0 {
					t.Errorf("%d connections, %d requests", n, len(heads))
				}
			})
		}
	})
}

// wantFailure fails the test unless the answer to a request is 502 or a reset.
func (n *namespace) wantFailure(t *testing.T, addr, request string) {
	t.Helper()
	nc, err := n.tryDial("", addr)
	if err == nil {
		defer nc.Close()
		_, err = io.WriteString(nc, request)
	}
	if err == nil {
		var head string
		if head, err = newPeer(t, nc).tryHead(); strings.HasPrefix(head, "HTTP/1.1 502 ") {
			return
		}
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("ended with %v; want a reset or 502", err)
	}
}

// A destination that the rules should have spared is the proxy itself.
func TestInsideLoopToListener(t *testing.T) {
	l := newLab(t)
	greedy := redirect
	greedy.rules = strings.Replace(redirect.rules, "fib daddr type local return", "", 1)
	eachFamily(t, greedy, func(t *testing.T, ip family) {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			done, flows := doneHook()
			p.Hooks = append(p.Hooks, done)
			port, accepted := l.startCounted(t, p, greedy)
			own := net.JoinHostPort(ip.wan, fmt.Sprint(port))
			l.client.wantReset(t, own, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrLoop) || f.Conn.Destination.Addr != own {
				t.Errorf("flow to %s: %v", f.Conn.Destination.Addr, f.Err)
			}
			if n := accepted.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	})
}

// nameServer tells every client which of the server's addresses it is, in HTTP if asked so,
// and keeps the connection until the client closes it. What it is asked begins its answer.
func (l *lab) nameServer(t *testing.T, addr string) {
	l.serve(t, addr, func(c *peer) {
		c.SetDeadline(time.Now().Add(2 * patience))
		if first, _ := c.r.Peek(4); string(first) == "GET " {
			head, _ := c.tryHead()
			id, _, _ := strings.Cut(strings.TrimPrefix(head, "GET /"), " ")
			name := id + " " + c.LocalAddr().String() + " " + remoteIP(c) + "\n"
			c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(name), name))
		} else {
			id, _ := c.r.ReadString('\n')
			c.send(strings.TrimSpace(strings.TrimPrefix(id, "ask ")) + " " + c.LocalAddr().String() + " " + remoteIP(c) + "\n")
		}
		io.Copy(io.Discard, c.r)
	})
}

func remoteIP(nc net.Conn) string {
	host, _, _ := net.SplitHostPort(nc.RemoteAddr().String())
	return host
}

// askName asks the nameServer at addr who it is.
func (n *namespace) askName(local, addr string, id int) (nc net.Conn, name string, err error) {
	if nc, err = n.tryDial(local, addr); err != nil {
		return nil, "", err
	}
	nc.SetDeadline(time.Now().Add(2 * patience))
	r := bufio.NewReader(nc)
	if id%2 == 0 {
		fmt.Fprintf(nc, "ask %d\n", id)
		name, err = r.ReadString('\n')
		return nc, name, err
	}
	fmt.Fprintf(nc, "GET /%d HTTP/1.1\r\nHost: the-same.test\r\n\r\n", id)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return nc, "", err
	}
	b, err := io.ReadAll(res.Body)
	return nc, res.Status[4:] + string(b), err
}

// askMany opens n connections at once to addrs in turn, and keeps them until all have got
// their answer.
func (n *namespace) askMany(t *testing.T, count int, addrs []string, from string) {
	t.Helper()
	conns := make([]net.Conn, count)
	var clients sync.WaitGroup
	for id := range count {
		addr := addrs[id%len(addrs)]
		clients.Go(func() {
			nc, name, err := n.askName("", addr, id)
			conns[id] = nc
			want := fmt.Sprintf("%d %s %s\n", id, addr, from)
			if id%2 == 1 {
				want = "OK" + want
			}
			if name != want || err != nil {
				t.Errorf("got %q, %v; want %q", name, err, want)
			}
		})
	}
	clients.Wait()
	for _, nc := range conns {
		if nc != nil {
			nc.Close()
		}
	}
}

// Many connections at once to many destinations: none is mistaken for another or for a loop.
func TestInsideMany(t *testing.T) {
	l := newLab(t)
	for _, w := range []way{redirect, tproxy, local} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			var addrs []string
			for i := range 20 {
				addr := ip.server(1+i%5, 8000+i/5)
				l.nameServer(t, addr)
				addrs = append(addrs, addr)
			}
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				l.start(t, p, w)
				client := l.client
				if w.name == local.name {
					client = nil
				}
				client.askMany(t, 500, addrs, ip.wan)
			})
		})
	}
}

// spoofing is w with the client's address towards the origin.
func spoofing(w way) way {
	w.mode.SpoofSource = true
	w.name += ", spoofed"
	if !strings.Contains(w.rules, divert) {
		w.rules = divert + w.rules
	}
	return w
}

// The origin sees the client's address, however many connections it has at once.
func TestInsideSpoof(t *testing.T) {
	l := newLab(t)
	for _, w := range []way{spoofing(redirect), spoofing(dnat), spoofing(tproxy)} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			addr := ip.server(1, 80)
			l.nameServer(t, addr)
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				l.start(t, p, w)
				l.client.askMany(t, 100, []string{addr}, ip.client)
			})
		})
	}
}

// The ports of spoofed connections are not those that clients have, or two connections
// would be one for the kernel's tables.
func TestInsideSpoofPorts(t *testing.T) {
	l := newLab(t)
	var router *namespace
	router.sysctl(t, "ipv4/ip_local_port_range", "40000 40001")
	defer router.sysctl(t, "ipv4/ip_local_port_range", "32768 60999")
	for _, w := range []way{spoofing(redirect), spoofing(tproxy)} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			addr := ip.server(1, 80)
			l.nameServer(t, addr)
			l.start(t, &mitm.Proxy{}, w)
			for id, port := range []string{"40000", "40001"} {
				nc, name, err := l.client.askName(net.JoinHostPort(ip.client, port), addr, 2*id)
				if err != nil {
					t.Fatalf("port %s: %v", port, err)
				}
				defer nc.Close()
				nc.(*net.TCPConn).SetLinger(0) // so that the port is free again
				if want := fmt.Sprintf("%d %s %s\n", 2*id, addr, ip.client); name != want {
					t.Errorf("port %s: got %q, want %q", port, name, want)
				}
			}
		})
	}
}
