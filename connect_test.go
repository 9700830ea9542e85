package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

const established = "HTTP/1.1 200 Connection Established\r\n\r\n"

// connect opens a tunnel to addr through the proxy at proxy and sends early in the same
// write as the CONNECT.
func connect(t testing.TB, proxy, addr, early string) *peer {
	t.Helper()
	c := dial(t, proxy)
	c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n" + early)
	if head := c.head(); head != established {
		t.Fatalf("CONNECT was answered with %q", head)
	}
	return c
}

// closeWrite sends a FIN.
func (p *peer) closeWrite() { p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// echo is an origin that sends back what it gets and passes the end on.
func echo(t testing.TB) string {
	return origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
}

// unreachable returns an address where nobody listens.
func unreachable(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// unread returns what arrived at c and was not read yet.
func (c *memConn) unread() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.String()
}

func TestR06_ConnectTargets(t *testing.T) {
	t.Parallel()
	for _, target := range []string{
		"origin.test", "origin.test:", "origin.test:0", "origin.test:65536", "origin.test:+80", "origin.test:8 0",
		"origin.test:http", "origin.test:80/path", "origin.test:80?q", "origin.test:80#f", ":80", "/", "*",
		"http://origin.test:80", "//origin.test:80", "user@origin.test:80", "[::1:80", "::1:80", "[::1]", "a:1:2",
		"origin.test:99999999999999999999",
	} {
		t.Run(strings.ReplaceAll(target, "/", "|"), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				p.Dial = noDial(t)
				c := dial(t, start(t, p))
				c.send("CONNECT " + target + " HTTP/1.1\r\nHost: origin.test\r\n\r\n")
				c.wantStatus(400)
				c.closed()
			})
		})
	}
}

// noDial fails the test when something is dialled.
func noDial(t *testing.T) mitm.DialFunc {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%s was dialled", addr)
		return nil, errors.New("not to be dialled")
	}
}

// authority-form is for CONNECT only.
func TestR06_AuthorityFormElsewhere(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Dial = noDial(t)
		c := dial(t, start(t, p))
		c.send("GET origin.test:80 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
		if res, _ := c.response("GET"); res.StatusCode != 400 && res.StatusCode != 501 {
			t.Errorf("status %s", res.Status)
		}
		c.closed()
	})
}

// The client is told about the dial, so nothing may be said before its end.
func TestR37_DialFirst(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			near, far := memPipe()
			dialled, proceed := make(chan string, 1), make(chan bool)
			p.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
				dialled <- network + " " + addr
				<-proceed
				return near, nil
			}
			go p.ServeConn(t.Context(), server)
			io.WriteString(client, "CONNECT Origin.test:443 HTTP/1.1\r\nHost: other.test\r\n\r\nearly")
			if got := <-dialled; got != "tcp origin.test:443" {
				t.Errorf("dialled %q", got)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if got := client.unread(); got != "" {
				t.Errorf("before the dial was through the client got %q", got)
			}
			proceed <- true
			synctest.Wait()
			if got := client.unread(); got != established {
				t.Errorf("client got %q", got)
			}
			if got := far.unread(); got != "early" {
				t.Errorf("origin got %q", got)
			}
			client.Close()
			far.Close()
			p.Close()
		})
	})
}

// Bytes sent together with CONNECT are the first of the tunnel, however many there are.
func TestR37_BytesWithConnect(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, n := range []int{1, 10, 32 << 10, 300 << 10} {
			early := strings.Repeat("0123456789abcdef", n/16+1)[:n]
			got := make(chan string, 1)
			addr := origin(t, func(c *peer) {
				all, err := c.rest()
				got <- fmt.Sprint(all, err)
			})
			c := connect(t, proxy, addr, early)
			c.closeWrite()
			if got := <-got; got != early+"<nil>" {
				t.Errorf("%d bytes: the origin got %d", n, len(got))
			}
			c.closed()
		}
	})
}

func TestR37_ServerFirst(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) {
			c.send("220 ready\r\n")
			c.send("you said " + c.read(4))
		})
		c := connect(t, start(t, p), addr, "")
		if got := c.read(11); got != "220 ready\r\n" {
			t.Errorf("got %q", got)
		}
		c.send("QUIT")
		if got, err := c.rest(); got != "you said QUIT" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// What one side sends after the other has finished still arrives, in both directions.
func TestR37_HalfClose(t *testing.T) {
	t.Parallel()
	question, answer := strings.Repeat("question", 10000), strings.Repeat("answer", 10000)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		t.Run("client first", func(t *testing.T) {
			got := make(chan string, 1)
			c := connect(t, proxy, origin(t, func(c *peer) { second(c, answer, got) }), "")
			first(t, c, question, answer)
			if got := <-got; got != question {
				t.Errorf("the origin got %d bytes", len(got))
			}
		})
		t.Run("origin first", func(t *testing.T) {
			got, done := make(chan string, 1), make(chan bool)
			c := connect(t, proxy, origin(t, func(c *peer) { first(t, c, question, answer); close(done) }), "")
			second(c, answer, got)
			c.closeWrite()
			if got := <-got; got != question {
				t.Errorf("the client got %d bytes", len(got))
			}
			<-done
		})
	})
}

// first says all it has to say and then listens.
func first(t *testing.T, c *peer, say, want string) {
	c.send(say)
	c.closeWrite()
	if got, err := c.rest(); got != want || err != nil {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, len(want))
	}
}

// second listens to the end before it speaks.
func second(c *peer, say string, got chan<- string) {
	all, err := c.rest()
	if err != nil {
		all = err.Error()
	}
	got <- all
	c.send(say)
}

// CONNECT has no content; what looks like it can't be told from tunnel data.
func TestR37_ConnectContent(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{"Content-Length: 5", "Transfer-Encoding: chunked"} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Dial = noDial(t)
			c := dial(t, start(t, p))
			c.send("CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test\r\n" + framing + "\r\n\r\nhello")
			c.wantStatus(400)
			c.closed()
		})
	}
}

// secretReason is for Flow.Err, not for clients.
const secretReason = "blocklist 7"

// rejects is a ConnHook that refuses everything.
var rejects = mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return mitm.Reject, nil })

// A refused CONNECT is answered with the reason and ends the connection: the bytes that
// follow were meant for the tunnel, however much they look like requests.
func TestR39_RefusedConnect(t *testing.T) {
	t.Parallel()
	reachable, heads := answering(t, ok200)
	for name, test := range map[string]struct {
		target string
		status int
		set    func(p *mitm.Proxy)
	}{
		"bad target":   {"no-port.test", 400, func(*mitm.Proxy) {}},
		"refused port": {unreachable(t), 502, func(*mitm.Proxy) {}},
		"no such name": {"origin.invalid:80", 502, func(p *mitm.Proxy) {
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.DNSError{Err: "no such host", Name: "origin.invalid", IsNotFound: true}
			}
		}},
		"dial timeout": {reachable, 504, func(p *mitm.Proxy) {
			p.DialTimeout = 20 * time.Millisecond
			p.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}},
		"rejected": {reachable, 403, func(p *mitm.Proxy) { p.Hooks = append(p.Hooks, rejects) }},
		"hook fails": {reachable, 403, func(p *mitm.Proxy) {
			p.Hooks = append(p.Hooks, mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) {
				return mitm.Tunnel, errors.New(secretReason)
			}))
		}},
		"checked dial": {reachable, 403, func(p *mitm.Proxy) { p.Dial = notLoopback }},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				test.set(p)
				c := dial(t, start(t, p))
				c.send("CONNECT " + test.target + " HTTP/1.1\r\nHost: h\r\n\r\n" +
					"GET http://" + reachable + "/smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
				res, body := c.response("GET")
				if res.StatusCode != test.status || !res.Close {
					t.Errorf("status %s, close %v; want %d and close", res.Status, res.Close, test.status)
				}
				if body == "" || strings.Contains(body, secretReason) {
					t.Errorf("the client was told %q", body)
				}
				if more, err := c.rest(); more != "" || err != nil {
					t.Errorf("then came %q, %v", more, err)
				}
			})
		})
	}
	if len(heads) > 0 {
		t.Errorf("the origin got %q", <-heads)
	}
}

// notLoopback refuses addresses of this host.
var notLoopback = mitm.CheckedDial(func(_ context.Context, addr netip.AddrPort) error {
	if addr.Addr().IsLoopback() {
		return errors.New(secretReason)
	}
	return nil
})

// A name must not hide an address from the check.
func TestCheckedDialResolves(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		_, err := notLoopback(t.Context(), "tcp", host+":1")
		if !errors.Is(err, mitm.ErrRejected) || !strings.Contains(err.Error(), secretReason) {
			t.Errorf("%s: %v", host, err)
		}
	}
	c, err := mitm.CheckedDial(func(context.Context, netip.AddrPort) error { return nil })(t.Context(), "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A client whose connection breaks while its destination is dialled ends the dial.
func TestConnectClientGone(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			flows := make(chan *mitm.Flow, 1)
			p.Hooks = append(p.Hooks, mitm.OnDone(func(f *mitm.Flow) { flows <- f }))
			dialling := make(chan bool)
			p.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				close(dialling)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			p.DialTimeout = -1
			go p.ServeConn(t.Context(), server)
			io.WriteString(client, "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test\r\n\r\nearly")
			<-dialling
			client.reset()
			if f := <-flows; !errors.Is(f.Err, mitm.ErrClientGone) || f.Method != "CONNECT" || f.Status != 0 {
				t.Errorf("flow %s, status %d, %v", f.Method, f.Status, f.Err)
			}
			p.Close()
		})
	})
}

// A client may send all it has, and its end, while its destination is dialled slowly: the
// tunnel delivers both.
func TestR37_EndBeforeTunnel(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			near, far := memPipe()
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				time.Sleep(5 * time.Second) // of the bubble's clock
				return near, nil
			}
			go p.ServeConn(t.Context(), server)
			io.WriteString(client, "CONNECT origin.test:7 HTTP/1.1\r\nHost: origin.test\r\n\r\nall there is")
			client.CloseWrite()
			if got, err := io.ReadAll(far); string(got) != "all there is" || err != nil {
				t.Errorf("origin got %q, %v", got, err)
			}
			io.WriteString(far, "answer")
			far.Close()
			got, err := io.ReadAll(client)
			if want := "HTTP/1.1 200 Connection Established\r\n\r\nanswer"; string(got) != want || err != nil {
				t.Errorf("client got %q, %v", got, err)
			}
			p.Close()
		})
	})
}
