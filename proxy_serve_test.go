package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

func TestServeUnix(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	echoing := echo(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		skipUnless(t, err == nil, "needs unix sockets")
		served := make(chan error, 1)
		go func() { served <- p.Serve(l) }()
		for _, request := range []string{"GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n", "CONNECT " + echoing + " HTTP/1.1\r\nHost: h\r\n"} {
			nc, err := net.Dial("unix", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			c := newPeer(t, nc)
			c.send(request + "\r\n")
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Errorf("got %q", head)
			}
		}
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve: %v", err)
		}
	})
}

// One Proxy serves several listeners of different kinds, until it is closed.
func TestServeTwoListeners(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	p := new(mitm.Proxy)
	one, two := start(t, p), start(t, p)
	for _, proxy := range []string{one, two} {
		c := dial(t, proxy)
		c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(200)
	}
}

// With MaxConns reached a connection waits until another has ended.
func TestMaxConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, origin := newMemListener(), newMemListener()
		heads := memAnswering(t, origin, ok200)
		p := &mitm.Proxy{MaxConns: 2, Dial: origin.Dial}
		go p.Serve(l)
		var clients []*peer
		for range 4 {
			nc, _ := l.Dial(t.Context(), "tcp", "")
			clients = append(clients, newPeer(t, nc))
			clients[len(clients)-1].send(plainGet)
		}
		synctest.Wait()
		for i, want := range []string{ok200, ok200, "", ""} {
			if got := clients[i].Conn.(*memConn).unread(); got != want {
				t.Errorf("connection %d got %q", i, got)
			}
		}
		clients[1].Close()
		clients[2].wantStatus(200)
		if got := clients[3].Conn.(*memConn).unread(); got != "" || len(heads) != 3 {
			t.Errorf("the last one got %q", got)
		}
		p.Close()
		clients[3].closed()
		origin.Close()
	})
}

// failing is a listener that fails before it works, and notes when it was asked.
type failing struct {
	*memListener
	errs  []error
	asked []time.Time
}

func (l *failing) Accept() (net.Conn, error) {
	l.asked = append(l.asked, time.Now())
	if len(l.errs) == 0 {
		return l.memListener.Accept()
	}
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
}

// A lack of descriptors passes; until then Serve asks less and less often.
func TestAcceptBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failing{memListener: newMemListener(), errs: slices.Repeat([]error{syscall.EMFILE}, 12)}
		log := new(records)
		p := &mitm.Proxy{Logger: log.logger()}
		served := make(chan error)
		go func() { served <- p.Serve(l) }()
		nc, err := l.Dial(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Second) // less than HeadTimeout
		synctest.Wait()
		c := newPeer(t, nc)
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(400)
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve: %v", err)
		}
		if len(l.asked) != 14 || log.count() != 12 {
			t.Fatalf("asked %d times, %d log records", len(l.asked), log.count())
		}
		for i, last := 1, time.Duration(0); i < 13; i++ {
			wait := l.asked[i].Sub(l.asked[i-1])
			if wait <= 0 || wait < last || wait > time.Second || i == 12 && wait != time.Second {
				t.Errorf("waited %v before asking the %dth time, %v before", wait, i+1, last)
			}
			last = wait
		}
	})
}

func TestCloseEndsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &failing{memListener: newMemListener(), errs: slices.Repeat([]error{syscall.EMFILE}, 1000)}
		p := &mitm.Proxy{Logger: slog.New(slog.DiscardHandler)}
		served := make(chan error)
		go func() { served <- p.Serve(l) }()
		time.Sleep(time.Minute)
		before := time.Now()
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed || time.Since(before) != 0 {
			t.Errorf("Serve: %v after %v", err, time.Since(before))
		}
	})
}

// An Accept that won't work again ends Serve, but not the connections there are.
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	l := &failing{memListener: newMemListener(), errs: []error{broken}}
	p := new(mitm.Proxy)
	defer p.Close()
	tunnel := connect(t, start(t, p), echo(t), "")
	err := p.Serve(l)
	var op *mitm.OpError
	if !errors.As(err, &op) || op.Op != "accept" || op.Addr != l.Addr().String() || !errors.Is(err, broken) {
		t.Errorf("Serve: %v", err)
	}
	if _, err := l.Dial(t.Context(), "tcp", ""); err == nil {
		t.Error("the listener is open")
	}
	tunnel.send("still there")
	tunnel.read(11)
}

// What can't work is refused before the first connection.
func TestHooksRefused(t *testing.T) {
	t.Parallel()
	onMessage := mitm.OnMessage(func(context.Context, *mitm.Message) error { return nil })
	for i, hook := range []mitm.Hook{onMessage, nil, 7, struct{}{}, "hook"} {
		p := &mitm.Proxy{Hooks: []mitm.Hook{rejects, hook}}
		l := newMemListener()
		client, server := memPipe()
		for _, err := range []error{p.Serve(l), p.ServeConn(t.Context(), server)} {
			if err == nil || errors.Is(err, mitm.ErrProxyClosed) || errors.Is(err, errors.ErrUnsupported) != (i == 0) {
				t.Errorf("%T: %v", hook, err)
			}
		}
		if _, err := l.Dial(t.Context(), "tcp", ""); err == nil {
			t.Errorf("%T: the listener is open", hook)
		}
		newPeer(t, client).closed()
		p.Close()
	}
}

// A destination that is the proxy itself is refused, however it is named.
func TestR29_Loop(t *testing.T) {
	t.Parallel()
	for listen, hosts := range map[string][]string{
		"127.0.0.1:0": {"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"},
		"0.0.0.0:0":   {"127.0.0.1", "localhost", "127.0.0.2", "0.0.0.0"},
		":0":          {"127.0.0.1", "localhost", "127.0.0.2"},
	} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l, err := net.Listen("tcp", listen)
			if err != nil {
				t.Fatal(err)
			}
			done, flows := doneHook()
			p.Hooks = append(p.Hooks, done)
			go p.Serve(l)
			defer p.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			for _, host := range hosts {
				for _, request := range []string{"GET http://%s/ HTTP/1.1\r\n", "CONNECT %s HTTP/1.1\r\n"} {
					c := dial(t, "127.0.0.1:"+port)
					c.send(fmt.Sprintf(request, host+":"+port) + "Host: h\r\n\r\n")
					if res, _ := c.response("GET"); res.StatusCode != 502 {
						t.Errorf("%s at %s: %s", host, listen, res.Status)
					}
					c.Close()
					if f := <-flows; !errors.Is(f.Err, mitm.ErrLoop) {
						t.Errorf("%s at %s: %v", host, listen, f.Err)
					}
				}
			}
		})
	}
}

// Two proxies one behind the other, joined by Reverse or by Dial.
func TestTwoHops(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	echoing := echo(t)
	eachEngine(t, func(t *testing.T, inner *mitm.Proxy) {
		inner.Mode = reverse(t, "http://"+addr)
		hop := start(t, inner)
		eachEngine(t, func(t *testing.T, outer *mitm.Proxy) {
			for name, set := range map[string]func(p *mitm.Proxy){
				"Reverse": func(p *mitm.Proxy) { p.Mode = reverse(t, "http://"+hop) },
				"Dial":    func(p *mitm.Proxy) { p.Dial = dialAlways(hop) },
			} {
				p := &mitm.Proxy{Hooks: outer.Hooks}
				set(p)
				c := dial(t, start(t, p))
				for range 2 {
					c.send("GET http://elsewhere.test/a HTTP/1.1\r\nHost: elsewhere.test\r\nX-A: b\r\n\r\n")
					if got := c.head() + c.read(2); got != ok200 {
						t.Errorf("%s: got %q", name, got)
					}
					if got, want := <-heads, "GET /a HTTP/1.1\r\nHost: "+addr+"\r\nX-A: b\r\n\r\n"; got != want {
						t.Errorf("%s: the origin got %q, want %q", name, got, want)
					}
				}
			}
		})
	})
	eachEngine(t, func(t *testing.T, inner *mitm.Proxy) {
		inner.Mode = fixed(mitm.Destination{Addr: echoing})
		c := connect(t, start(t, &mitm.Proxy{Dial: dialAlways(start(t, inner))}), "elsewhere.test:7", "\x00hello")
		if got := c.read(6); got != "\x00hello" {
			t.Errorf("got %q", got)
		}
	})
}

// Many clients at once get their own answers, from the origin that they asked.
func TestManyClients(t *testing.T) {
	t.Parallel()
	const clients, requests, origins = 64, 50, 8
	var addrs []string
	for i := range origins {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			content, _ := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%d %s %s", i, r.URL, content)
		}))
		defer server.Close()
		addrs = append(addrs, server.URL)
	}
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := &url.URL{Scheme: "http", Host: start(t, p)}
		var all sync.WaitGroup
		for i := range clients {
			all.Go(func() {
				transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
				defer transport.CloseIdleConnections()
				for j := range requests {
					askOnce(t, transport, addrs[(i+j)%origins], (i+j)%origins, fmt.Sprintf("/%d-%d", i, j), i*j%7*1000)
				}
			})
		}
		all.Wait()
	})
}

func askOnce(t *testing.T, transport http.RoundTripper, addr string, at int, path string, size int) {
	content := strings.Repeat("x", size)
	req, err := http.NewRequest("POST", addr+path, strings.NewReader(content))
	if err != nil {
		t.Error(err)
		return
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if want := fmt.Sprintf("%d %s %s", at, path, content); string(got) != want || err != nil {
		t.Errorf("%s: got %d bytes, %v; want %d", path, len(got), err, len(want))
	}
}

// A pipelined request that arrives while the one before waits does not disturb its answer.
func TestSlowHeadPipelined(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			fail := make(chan bool)
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				<-fail
				return nil, syscall.ECONNREFUSED
			}
			go p.ServeConn(t.Context(), server)
			io.WriteString(client, strings.Replace(plainGet, "GET", "HEAD", 1))
			time.Sleep(time.Second) // now it is watched whether the client leaves
			io.WriteString(client, strings.Repeat(plainGet, 10))
			synctest.Wait()
			close(fail)
			c := newPeer(t, client)
			c.response("HEAD")
			c.wantStatus(502)
			client.Close()
			p.Close()
		})
	})
}
