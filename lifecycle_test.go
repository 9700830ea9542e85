package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// looked is a ConnHook that has every tunnel looked into.
var looked = mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return mitm.Intercept, nil })

const connectOrigin = "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test\r\n\r\n"

// nothingAsked are connections on which nothing was asked of the proxy yet: how they begin, and what
// the client is told until then.
var nothingAsked = map[string]struct {
	set  func(t *testing.T, p *mitm.Proxy)
	open func(t *testing.T, c *memConn, p *mitm.Proxy) net.Conn
}{
	"accepted":    {},
	"destination": {set: func(_ *testing.T, p *mitm.Proxy) { p.Mode = fixed(mitm.Destination{Addr: "origin.test:7"}) }},
	"destination, CA": {set: func(t *testing.T, p *mitm.Proxy) {
		p.Mode, p.CA = fixed(mitm.Destination{Addr: "origin.test:7"}), newCA(t)
	}},
	"transparent":          {set: func(_ *testing.T, p *mitm.Proxy) { p.Mode = mitm.Transparent{Lookup: lookup("192.0.2.7:7")} }},
	"reverse, CA":          {set: func(t *testing.T, p *mitm.Proxy) { p.Mode, p.CA = reverseTo("origin.test:80"), newCA(t) }},
	"SOCKS5":               {open: says(noAuth+socksRequest("origin.test:7"), agreed+socksReply(0))},
	"SOCKS5, CA":           {set: withCA, open: says(noAuth+socksRequest("origin.test:7"), agreed+socksReply(0))},
	"CONNECT, CA":          {set: withCA, open: says(connectOrigin, established)},
	"CONNECT, looked into": {set: func(_ *testing.T, p *mitm.Proxy) { p.Hooks = append(p.Hooks, looked) }, open: says(connectOrigin, established)},
	"TLS, no ALPN":         {set: withCA, open: secured()},
	"TLS, other ALPN":      {set: withCA, open: secured("other")},
	"TLS, http/1.1":        {set: withCA, open: secured("http/1.1")},
}

func withCA(t *testing.T, p *mitm.Proxy) { p.CA = newCA(t) }

func says(what, told string) func(t *testing.T, c *memConn, p *mitm.Proxy) net.Conn {
	return func(t *testing.T, c *memConn, _ *mitm.Proxy) net.Conn {
		io.WriteString(c, what)
		if got := newPeer(t, c).read(len(told)); got != told {
			t.Fatalf("told %q", got)
		}
		return c
	}
}

func secured(protocols ...string) func(t *testing.T, c *memConn, p *mitm.Proxy) net.Conn {
	return func(t *testing.T, c *memConn, p *mitm.Proxy) net.Conn {
		says(connectOrigin, established)(t, c, p)
		tc := tls.Client(c, &tls.Config{ServerName: "origin.test", RootCAs: poolOf(p.CA.Certificate()), NextProtos: protocols})
		if err := tc.Handshake(); err != nil {
			t.Fatalf("handshake: %v", err)
		}
		return tc
	}
}

// Where nothing was asked yet, Shutdown has nothing to wait for: the connection is closed, in order
// and at once, whether or not there is one to the origin already.
func TestR86_ShutdownBeforeFirstByte(t *testing.T) {
	for name, state := range nothingAsked {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					p.Hooks = append(p.Hooks, done)
					near, far := memPipe()
					p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
					if state.set != nil {
						state.set(t, p)
					}
					go io.Copy(io.Discard, far)
					client, server := memPipe()
					go p.ServeConn(context.Background(), server)
					c := net.Conn(client)
					if state.open != nil {
						c = state.open(t, client, p)
					}
					synctest.Wait()
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := p.Shutdown(ctx); err != nil {
						t.Errorf("Shutdown: %v", err)
					}
					if got, err := io.ReadAll(c); len(got) > 0 || err != nil {
						t.Errorf("the client got %q, %v", got, err)
					}
					for len(flows) > 0 {
						if f := <-flows; f.Err != nil {
							t.Errorf("flow: %v", f.Err)
						}
					}
					c.Close()
					far.Close()
				})
			})
		})
	}
}

// A stream of HTTP/2 that is a tunnel ends like any other connection.
func TestR86_ShutdownBeforeFirstByteHTTP2(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			withCA(t, p)
			near, far := memPipe()
			p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
			client, server := memPipe()
			go p.ServeConn(context.Background(), server)
			c := newH2Peer(t, client, true)
			s := c.connect("origin.test:443")
			c.ping()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // net/http takes a second
			defer cancel()
			ended := make(chan error, 1)
			go func() { ended <- p.Shutdown(ctx) }()
			if c.want(s, "200"); s.body.Len() > 0 {
				t.Errorf("%q", s.body.String())
			}
			c.until(func() bool { return false })
			if err := <-ended; err != nil || c.goAway == nil {
				t.Errorf("Shutdown: %v, GOAWAY %v", err, c.goAway)
			}
			client.Close()
			far.Close()
		})
	})
}

// What has begun is not cut, however little of it there is.
func TestR86_ShutdownAfterFirstByte(t *testing.T) {
	for name, mode := range map[string]mitm.Mode{"explicit": nil, "destination": fixed(mitm.Destination{Addr: "origin.test:80"})} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					l := newMemListener()
					memAnswering(t, l, ok200)
					p.Mode, p.Dial = mode, l.Dial
					client, server := memPipe()
					go p.ServeConn(context.Background(), server)
					io.WriteString(client, plainGet[:1])
					synctest.Wait()
					ended := make(chan error, 1)
					go func() { ended <- p.Shutdown(context.Background()) }()
					synctest.Wait()
					io.WriteString(client, plainGet[1:])
					c := newPeer(t, client)
					c.wantStatus(200)
					c.closed()
					if err := <-ended; err != nil {
						t.Errorf("Shutdown: %v", err)
					}
					l.Close()
				})
			})
		})
	}
}

// A server that speaks first begins a tunnel, of which Shutdown waits for the end.
func TestR86_ShutdownAfterServerSpoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := memPipe()
		p := &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: "origin.test:25"})}
		p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		client, server := memPipe()
		go p.ServeConn(context.Background(), server)
		io.WriteString(far, "220 hello\r\n")
		c := newPeer(t, client)
		c.read(11)
		ended := make(chan error, 1)
		go func() { ended <- p.Shutdown(context.Background()) }()
		synctest.Wait()
		io.WriteString(client, "QUIT\r\n")
		if got := newPeer(t, far).read(6); got != "QUIT\r\n" {
			t.Errorf("the server got %q", got)
		}
		client.Close()
		far.Close()
		if err := <-ended; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// underWay are tunnels and exchanges: what the client sends and is sent first, and the step at which
// Close finds them.
var underWay = map[string]struct {
	mode       mitm.Mode
	sent       string
	answer     string // of the origin, once it has got something
	got        string
	step       string
	looked, ca bool
}{
	"CONNECT":         {sent: connectOrigin + "\x00ping", answer: "\x00pong", got: established + "\x00pong", step: "relay"},
	"SOCKS5":          {sent: noAuth + socksRequest("origin.test:7") + "\x00ping", answer: "\x00pong", got: agreed + socksReply(0) + "\x00pong", step: "relay"},
	"destination":     {mode: fixed(mitm.Destination{Addr: "origin.test:7"}), sent: "\x00ping", answer: "\x00pong", got: "\x00pong", step: "relay"},
	"transparent":     {mode: mitm.Transparent{Lookup: lookup("192.0.2.7:7")}, sent: "\x00ping", answer: "\x00pong", got: "\x00pong", step: "relay"},
	"looked into":     {sent: connectOrigin, got: established, step: "relay", looked: true},
	"CONNECT with CA": {sent: connectOrigin, got: established, step: "relay", ca: true},
	"upgrade": {sent: plainGet[:len(plainGet)-2] + "Connection: Upgrade\r\nUpgrade: x\r\n\r\n", step: "relay",
		answer: "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x00pong",
		got:    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\x00pong"},
	"waiting":     {sent: plainGet, step: "read response"},
	"downloading": {sent: plainGet, answer: ok200[:len(ok200)-1], got: ok200[:len(ok200)-1], step: "read response"},
	"head":        {sent: "GET http://origin.test/ HTTP/1.1\r\nHo", step: "read request"},
	"uploading":   {sent: "PUT http://origin.test/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", step: "read request or read response"}, // both are waited for
}

// Close ends what is under way, and says so in Flow.Err with the step that it was at. So does the end
// of ServeConn's context, with its cause.
func TestR86_CloseIsTheCause(t *testing.T) {
	for name, state := range underWay {
		for _, byContext := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					synctest.Test(t, func(t *testing.T) {
						done, flows := doneHook()
						p.Hooks, p.Mode = append(p.Hooks, done), state.mode
						if state.looked {
							p.Hooks = append(p.Hooks, looked)
						}
						if state.ca {
							p.CA = newCA(t)
						}
						l := newMemListener()
						var running sync.WaitGroup
						l.serve(&running, func(nc net.Conn) {
							nc.Read(make([]byte, 1024))
							io.WriteString(nc, state.answer)
							io.Copy(io.Discard, nc)
						})
						p.Dial = l.Dial
						client, server := memPipe()
						ctx, cancel := context.WithCancelCause(t.Context())
						defer cancel(nil)
						running.Go(func() { p.ServeConn(ctx, server) })
						io.WriteString(client, state.sent)
						c := newPeer(t, client)
						if got := c.read(len(state.got)); got != state.got {
							t.Errorf("got %q", got)
						}
						synctest.Wait()
						cause := mitm.ErrProxyClosed
						if byContext {
							cause = errors.New("enough")
							cancel(cause)
						} else {
							p.Close()
						}
						f := nextFlow(t, flows)
						if op, ok := errors.AsType[*mitm.OpError](f.Err); !ok || !strings.Contains(state.step, op.Op) || !errors.Is(f.Err, cause) {
							t.Errorf("flow: %v, want %s: %v", f.Err, state.step, cause)
						}
						if _, err := c.rest(); err == nil {
							t.Error("the end looks like an orderly one")
						}
						p.Close()
						l.Close()
						running.Wait()
					})
				})
			})
		}
	}
}

// The same for a stream of HTTP/2 that is a tunnel, and for one that is an exchange.
func TestR86_CloseIsTheCauseHTTP2(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			done, flows := doneHook()
			p.Hooks = append(p.Hooks, done)
			l := newMemListener()
			var running sync.WaitGroup
			l.serve(&running, func(nc net.Conn) { io.Copy(io.Discard, nc) })
			p.Dial = l.Dial
			client, server := memPipe()
			running.Go(func() { p.ServeConn(t.Context(), server) })
			c := newH2Peer(t, client, true)
			s := c.connect("origin.test:7")
			c.data(s.id, false, "\x00ping")
			c.begin(true, ":scheme", "http", ":authority", "origin.test")
			c.ping()
			synctest.Wait()
			p.Close()
			for range 2 {
				if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrProxyClosed) {
					t.Errorf("%s: flow %v", f.Method, f.Err)
				}
			}
			client.Close()
			l.Close()
			running.Wait()
		})
	})
}

// lateReader is a connection whose Read takes its time to notice that it was closed.
type lateReader struct {
	net.Conn
	left *atomic.Int32 // counts Reads that have ended with an error
}

func (c lateReader) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		time.Sleep(closeTakes)
		c.left.Add(1)
	}
	return n, err
}

const closeTakes = 500 * time.Millisecond

// When Close returns, nobody reads from a connection to an origin any more, whatever it was for.
func TestR86_CloseWaitsForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := exampleCert()
		i := newInterception(t, new(mitm.Proxy), roots)
		l := newMemListener()
		var running sync.WaitGroup
		l.serve(&running, func(nc net.Conn) {
			tc := tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
			if tc.Handshake() == nil {
				c := newH2Peer(t, tc, false)
				for s := c.accept(); s != nil; s = c.accept() {
					c.answer(s, "ok")
				}
			}
		})
		var left atomic.Int32
		i.proxy.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := l.Dial(ctx, network, addr)
			return lateReader{nc, &left}, err
		}
		i.open = func() net.Conn {
			client, server := memPipe()
			running.Go(func() { i.proxy.ServeConn(context.Background(), server) })
			return client
		}
		c := i.h2()
		c.want(c.get(), "200")
		c.nc.Close()
		synctest.Wait()
		i.proxy.Close()
		if left.Load() == 0 {
			t.Error("the connection to the origin is still read")
		}
		l.Close()
		running.Wait()
	})
}

// stalled is content that a hook made of which nothing comes until it is closed.
type stalled struct {
	once *sync.Once
	end  chan struct{}
}

func newStalled() stalled { return stalled{new(sync.Once), make(chan struct{})} }

func (s stalled) Read([]byte) (int, error) {
	<-s.end
	return 0, errors.New("closed")
}

func (s stalled) Close() error {
	s.once.Do(func() { close(s.end) })
	return nil
}

// stalling are hooks that put stalled content in place.
func stalling(content stalled) map[string]mitm.Hook {
	hooks := map[string]mitm.Hook{}
	for name, length := range map[string]int64{"unknown": -1, "measured": 0, "given": 10} {
		hooks["answer, length "+name] = mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: length, Body: content}, nil
		})
		hooks["response, length "+name] = mitm.OnResponse(func(res *http.Response) error {
			res.Body, res.ContentLength = content, length
			return nil
		})
		hooks["request, length "+name] = mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Body, req.ContentLength = content, length
			return nil, nil
		})
	}
	return hooks
}

// Content of a hook of which nothing comes is closed when nobody waits for it any more, so that the
// exchange ends, and whoever makes the content knows.
func TestR86_StalledContent(t *testing.T) {
	for name := range stalling(stalled{}) {
		for _, version := range []string{"HTTP/1", "HTTP/2"} {
			for _, end := range []string{"client leaves", "client leaves in the middle of its content", "Close", "context"} {
				if strings.HasPrefix(name, "response") && strings.HasSuffix(end, "content") {
					continue // an early answer of the origin, whose upload reads from the client
				}
				t.Run(version+" "+name+" "+end, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { stalledContent(t, name, version == "HTTP/2", end) })
				})
			}
		}
	}
}

func stalledContent(t *testing.T, hook string, http2 bool, end string) {
	content := newStalled()
	done, flows := doneHook()
	l := newMemListener()
	var running sync.WaitGroup
	l.serve(&running, func(nc net.Conn) {
		if c := newTimelessPeer(t, nc); !strings.HasPrefix(hook, "request") {
			c.tryHead()
			c.send(ok200)
		}
		io.Copy(io.Discard, nc)
	})
	p := &mitm.Proxy{Hooks: []mitm.Hook{done, stalling(content)[hook]}, Dial: l.Dial, ContentTimeout: -1, ResponseTimeout: -1}
	client, server := memPipe()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	running.Go(func() { p.ServeConn(ctx, server) })
	uploads := strings.HasSuffix(end, "content")
	switch {
	case http2:
		c := newH2Peer(t, client, true)
		c.begin(!uploads, ":scheme", "http", ":authority", "origin.test", ":method", "POST")
		c.ping()
	case uploads:
		io.WriteString(client, "POST http://origin.test/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab")
	default:
		io.WriteString(client, plainGet)
	}
	time.Sleep(time.Second)
	cause := map[string]error{"Close": mitm.ErrProxyClosed, "context": errors.New("enough")}[end]
	switch end {
	default:
		cause = mitm.ErrClientGone
		client.Close()
	case "Close":
		running.Go(func() { p.Close() })
	case "context":
		cancel(cause)
	}
	select {
	case <-content.end:
	case <-time.After(time.Hour):
		t.Error("the content was not closed")
		content.Close()
	}
	if f := nextFlow(t, flows); !errors.Is(f.Err, cause) {
		t.Errorf("flow: %v, want %v", f.Err, cause)
	}
	client.Close()
	p.Close()
	l.Close()
	running.Wait()
}
