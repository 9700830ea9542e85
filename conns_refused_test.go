package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// A client that sends all of its request before it reads gets the answer, whoever gives it.
func TestR64_AnswerWhileContentComes(t *testing.T) {
	const size = 3 << 20
	const hookSize = 900 << 10 // what the answer is made of may still need it, so it is kept
	sized := func(line string, size int) string {
		return fmt.Sprintf("%s HTTP/1.1\r\nHost: origin.test\r\nContent-Length: %d\r\n\r\n%s", line, size, strings.Repeat("x", size))
	}
	request := func(line string) string { return sized(line, size) }
	post := request("POST http://origin.test/")
	for name, test := range map[string]struct {
		request string
		set     func(p *mitm.Proxy)
		status  int
	}{
		"no credentials": {post, func(p *mitm.Proxy) { p.Mode = mitm.Explicit{Authenticate: mitm.Passwords(nil)} }, 407},
		"rejected": {post, func(p *mitm.Proxy) {
			p.Hooks = append(p.Hooks, mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return mitm.Reject, nil }))
		}, 403},
		"no origin":          {post, func(p *mitm.Proxy) { p.Dial = refusing(errors.New("no")) }, 502},
		"malformed":          {request("POST http://"), func(*mitm.Proxy) {}, 400},
		"CONNECT":            {request("CONNECT origin.test:80"), func(*mitm.Proxy) {}, 400},
		"TRACE":              {strings.Replace(request("TRACE http://origin.test/"), "Host", "Max-Forwards: 0\r\nHost", 1), func(*mitm.Proxy) {}, 200},
		"a hook answers":     {sized("POST http://origin.test/", hookSize), hookAnswers, 418},
		"the origin answers": {post, func(p *mitm.Proxy) { p.Dial = answeringEarly }, 413},
	} {
		t.Run(name, func(t *testing.T) {
			for _, k := range connKinds {
				t.Run(k.name, func(t *testing.T) {
					t.Parallel()
					p := new(mitm.Proxy)
					test.set(p)
					ours, theirs := k.pair(t)
					defer theirs.Close()
					served := make(chan error, 1)
					go func() { served <- p.ServeConn(t.Context(), ours) }()
					c := newPeer(t, theirs)
					io.WriteString(theirs, test.request) // as much of it as is taken
					if head := c.head(); !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", test.status)) {
						t.Errorf("got %q", head)
					}
					theirs.Close()
					if err := <-served; err != nil {
						t.Errorf("ServeConn: %v", err)
					}
					p.Close()
				})
			}
		})
	}
}

func hookAnswers(p *mitm.Proxy) {
	p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 418, Body: io.NopCloser(strings.NewReader("no")), Request: req}, nil
	}))
}

// answeringEarly is an origin that answers before it has read the content, and closes.
func answeringEarly(context.Context, string, string) (net.Conn, error) {
	near, far := memPipe()
	go func() {
		b := make([]byte, 100<<10)
		io.ReadFull(far, b)
		io.WriteString(far, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		far.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(far, 200<<10))
		far.Close()
	}()
	return near, nil
}

// What hangs although its time is over is ended, whichever direction hangs and whatever the
// connection makes of deadlines.
func TestR64_Deadlines(t *testing.T) {
	wraps := map[string]func(*memConn) net.Conn{
		"heeded":  func(nc *memConn) net.Conn { return nc },
		"refused": func(nc *memConn) net.Conn { return refusesDeadlines{nc} },
		"ignored": func(nc *memConn) net.Conn { return ignoresDeadlines{nc} },
	}
	for name, wrap := range wraps {
		for step, run := range map[string]func(t *testing.T, client, far *memConn){
			"no request":  func(*testing.T, *memConn, *memConn) {},
			"half a head": func(_ *testing.T, client, _ *memConn) { io.WriteString(client, "GET ") },
			"no response": func(_ *testing.T, client, _ *memConn) { io.WriteString(client, plainGet) },
			"response not read": func(_ *testing.T, client, far *memConn) {
				io.WriteString(client, plainGet)
				io.Copy(far, io.MultiReader(strings.NewReader("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), noise(1, 1000000)))
			},
			"request not read": func(_ *testing.T, client, far *memConn) {
				io.WriteString(client, "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 1000000\r\n\r\n")
				io.Copy(client, noise(1, 1000000))
			},
			"tunnel not read": func(_ *testing.T, client, far *memConn) {
				io.WriteString(client, "CONNECT origin.test:80 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
				io.Copy(far, noise(1, 1000000))
			},
			"second request": func(_ *testing.T, client, far *memConn) {
				io.WriteString(client, plainGet)
				io.WriteString(far, ok200)
			},
		} {
			t.Run(name+", "+step, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, server := memPipe()
					near, far := memPipe()
					p := &mitm.Proxy{TunnelTimeout: time.Minute}
					p.Dial = func(context.Context, string, string) (net.Conn, error) { return wrap(near), nil }
					served := make(chan error, 1)
					go func() { served <- p.ServeConn(t.Context(), wrap(server)) }()
					run(t, client, far)
					select {
					case <-served:
					case <-time.After(time.Hour):
						t.Error("it hangs")
					}
					client.Close()
					p.Close()
					far.Close()
				})
			})
		}
	}
}

// A connection that does not even react to its end is left behind.
func TestR64_UnclosableConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := memPipe()
		p := new(mitm.Proxy)
		nc := unclosable{wrapper{server}, make(chan bool)}
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { served <- p.ServeConn(ctx, nc) }()
		io.WriteString(client, plainGet[:10])
		time.Sleep(time.Second)
		cancel()
		select {
		case <-served:
		case <-time.After(time.Hour):
			t.Error("ServeConn does not return")
		}
		p.Close()
		close(nc.over)
		server.Close()
	})
}

// unclosable hangs in Close.
type unclosable struct {
	wrapper
	over chan bool
}

func (c unclosable) Close() error {
	<-c.over
	return nil
}

// What follows a content that the origin did not take to its end is another request, and not thrown away
// with it.
func TestR64_RequestAfterUnwantedContent(t *testing.T) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			asked := make(chan bool, 2)
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				near, far := memPipe()
				refused := make(chan struct{})
				go func() {
					defer far.Close()
					c := newPeer(t, far)
					head, _ := c.tryHead()
					asked <- true
					if strings.HasPrefix(head, "GET") {
						c.send(ok200)
						return
					}
					<-refused
					c.send("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}()
				return &takesOneWrite{wrapper: wrapper{near}, refused: refused}, nil
			}
			ours, theirs := k.pair(t)
			served := make(chan error, 1)
			go func() { served <- p.ServeConn(t.Context(), ours) }()
			c := newPeer(t, theirs)
			c.send(headTo("origin.test", "POST", "/", "Content-Length: 10"))
			<-asked
			c.send("0123456789")
			if res, _ := c.response("POST"); res.StatusCode != 413 || res.Close {
				t.Fatalf("%s, close %v", res.Status, res.Close)
			}
			c.send(headTo("origin.test", "GET", "/"))
			c.wantStatus(200)
			theirs.Close()
			<-served
			p.Close()
		})
	})
}

// takesOneWrite fails from the second one on.
type takesOneWrite struct {
	wrapper
	n       atomic.Int32
	refused chan struct{}
}

func (c *takesOneWrite) Write(p []byte) (int, error) {
	switch c.n.Add(1) {
	case 1:
		return c.wrapper.Write(p)
	case 2:
		close(c.refused)
	}
	return 0, syscall.EPIPE
}
