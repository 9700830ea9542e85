package mitm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/mitm"
)

// What only looks like the proxy's own address is dialled: another family, another network.
func TestR66_NoLoop(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ network, listen, origin string }{
		"IPv6 beside IPv4":      {"tcp4", "0.0.0.0:0", "[::1]"},
		"IPv4 beside IPv6":      {"tcp6", "[::]:0", "127.0.0.1"},
		"one of many addresses": {"tcp4", "127.0.0.1:0", "127.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				l, err := net.Listen(test.network, test.listen)
				skipUnless(t, err == nil, "needs "+test.network)
				_, port, _ := net.SplitHostPort(l.Addr().String())
				addr := strings.TrimSuffix(test.origin, ":") + ":" + port
				site, err := net.Listen("tcp", addr)
				skipUnless(t, err == nil, "needs "+addr)
				server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })}
				go server.Serve(site)
				defer server.Close()
				go p.Serve(l)
				defer p.Close()
				proxy := net.JoinHostPort(map[string]string{"tcp4": "127.0.0.1", "tcp6": "::1"}[test.network], port)
				c := dial(t, proxy)
				c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n\r\n")
				if res, body := c.response("GET"); body != "hello" {
					t.Errorf("got %s %q", res.Status, body)
				}
				tunnel := connect(t, proxy, addr, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				if res, body := tunnel.response("GET"); body != "hello" {
					t.Errorf("in a tunnel got %s %q", res.Status, body)
				}
			})
		})
	}
}

// A Dial may lead into a network in which the proxy's address is somebody else's.
func TestR66_AnotherNetwork(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			l := newMemListener()
			own := l.Addr().(*net.TCPAddr)
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				near, far := memPipeAddr(&net.TCPAddr{IP: own.IP, Port: 65535}, own)
				go func() {
					defer far.Close()
					for c := newPeer(t, far); ; c.send(ok200) {
						if _, err := c.tryHead(); err != nil {
							return
						}
					}
				}()
				return near, nil
			}
			go p.Serve(l)
			nc, _ := l.Dial(t.Context(), "tcp", "")
			c := newPeer(t, nc)
			for range 2 {
				c.send("GET http://" + own.String() + "/ HTTP/1.1\r\nHost: h\r\n\r\n")
				c.wantStatus(200)
			}
			p.Close()
			nc.Close()
		})
	})
}

// A real loop is found out, at the latest when the connection arrives, whatever accepts and dials.
func TestR66_Loop(t *testing.T) {
	t.Parallel()
	plain := func(nc net.Conn) net.Conn { return nc }
	wrap := func(nc net.Conn) net.Conn { return wrapper{nc} }
	for name, test := range map[string]struct {
		accepted, dialled func(net.Conn) net.Conn
		serve             func(p *mitm.Proxy, l net.Listener)
	}{
		"Serve":                 {wrap, plain, func(p *mitm.Proxy, l net.Listener) { p.Serve(l) }},
		"no address":            {plain, plain, func(p *mitm.Proxy, l net.Listener) { p.Serve(hiddenListener{l}) }},
		"ServeConn":             {plain, plain, serveConns},
		"wrapped on both sides": {wrap, wrap, serveConns},
	} {
		for request, until := range map[string]string{
			"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\n\r\n": "\r\n\r\n",
			"CONNECT ADDR HTTP/1.1\r\nHost: h\r\n\r\n":     "",
			noAuth + "SOCKS": "",
		} {
			t.Run(name+" "+request[:3], func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					inner, err := net.Listen("tcp", "127.0.0.1:0")
					if err != nil {
						t.Fatal(err)
					}
					l := &wrappingListener{Listener: inner, wrap: test.accepted}
					done, flows := doneHook()
					p.Hooks = append(p.Hooks, done)
					p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
						nc, err := new(net.Dialer).DialContext(ctx, network, addr)
						if err != nil {
							return nil, err
						}
						return test.dialled(nc), nil
					}
					go test.serve(p, l)
					addr := inner.Addr().String()
					c := dial(t, addr)
					request := strings.Replace(request, "ADDR", addr, 1)
					c.send(strings.Replace(request, "SOCKS", socksRequest(addr), 1))
					if until != "" {
						c.wantStatus(502)
					} else {
						c.rest()
					}
					c.Close()
					if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrLoop) {
						t.Errorf("flow: %v", f.Err)
					}
					if n := l.accepted.Load(); n > 2 {
						t.Errorf("%d connections", n)
					}
					inner.Close()
					p.Close()
				})
			})
		}
	}
}

// wrappingListener wraps and counts what it accepts.
type wrappingListener struct {
	net.Listener
	wrap     func(net.Conn) net.Conn
	accepted atomic.Int64
}

func (l *wrappingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.accepted.Add(1)
	return l.wrap(nc), nil
}

type hiddenListener struct{ net.Listener }

func (hiddenListener) Addr() net.Addr { return nil }

// serveConns accepts by itself.
func serveConns(p *mitm.Proxy, l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go p.ServeConn(context.Background(), nc)
	}
}
