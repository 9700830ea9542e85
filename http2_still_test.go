package mitm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// inHTTP1Bubble is inBubble with a minute's patience for content, a client of HTTP/1 and an origin
// that speaks HTTP/2 only, of which serve gets each request.
func inHTTP1Bubble(t *testing.T, serve func(c *h2peer, s *h2stream), f func(t *testing.T, c *peer, flows chan *mitm.Flow)) {
	t.Helper()
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = time.Minute
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		cert, _ := exampleCert()
		i := inMemoryTLS(t, p, onlyHTTP2(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}), func(tc *tls.Conn) {
			c := newH2Peer(t, tc, false)
			c.shut = true
			for s := c.accept(); s != nil; s = c.accept() {
				serve(c, s)
			}
		})
		f(t, newTimelessPeer(t, i.tls("http/1.1")), flows)
	})
}

// A response that stands still is cut for a client of HTTP/1, too, and its stream is given up.
func TestHTTP1Client_HTTP2OriginStopsSending(t *testing.T) {
	for name, length := range map[string][]string{"length": {"content-length", "10"}, "chunked": nil} {
		t.Run(name, func(t *testing.T) {
			given := make(chan string, 8)
			serve := func(c *h2peer, s *h2stream) {
				c.headers(s.id, false, append([]string{":status", "200"}, length...)...)
				c.data(s.id, false, "abc")
				c.until(func() bool { return s.reset != nil })
				given <- s.outcome()
			}
			inHTTP1Bubble(t, serve, func(t *testing.T, c *peer, flows chan *mitm.Flow) {
				c.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
				c.head()
				start := time.Now()
				got, _ := c.rest()
				if wantSoon(t, start); !strings.Contains(got, "abc") || strings.Contains(got, "0\r\n") {
					t.Errorf("got %q", got)
				}
				c.Close()
				if f := nextFlow(t, flows); !errors.Is(f.Err, context.DeadlineExceeded) {
					t.Errorf("flow: %v", f.Err)
				}
				want(t, receive(t, given), "cut ")
			})
		})
	}
}

// Content that an origin does not take, though its connection is well, is answered with 504.
func TestHTTP1Client_HTTP2OriginStopsReading(t *testing.T) {
	serve := func(c *h2peer, s *h2stream) { c.until(func() bool { return s.reset != nil }) }
	inHTTP1Bubble(t, serve, func(t *testing.T, c *peer, flows chan *mitm.Flow) {
		start := time.Now()
		go c.Write([]byte("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 1000000)))
		c.wantStatus(504)
		wantSoon(t, start)
		c.Close()
		if f := nextFlow(t, flows); !errors.Is(f.Err, context.DeadlineExceeded) {
			t.Errorf("flow: %v", f.Err)
		}
	})
}

// Content that moves slowly, in either direction, does not stand still.
func TestHTTP1Client_SlowHTTP2Origin(t *testing.T) {
	serve := func(c *h2peer, s *h2stream) {
		for !s.over() {
			n := s.body.Len()
			c.until(func() bool { return s.over() || s.body.Len()-n >= 65535 })
			time.Sleep(50 * time.Second)
			c.number(frameWindow, 0, 65535)
			c.number(frameWindow, s.id, 65535)
		}
		c.headers(s.id, false, ":status", "200")
		for range 5 {
			time.Sleep(50 * time.Second)
			c.data(s.id, false, "x")
		}
		c.data(s.id, true, "")
	}
	inHTTP1Bubble(t, serve, func(t *testing.T, c *peer, flows chan *mitm.Flow) {
		c.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 524288\r\n\r\n" + strings.Repeat("x", 524288))
		if res, body := c.response("POST"); res.StatusCode != 200 || body != "xxxxx" {
			t.Errorf("%s %q", res.Status, body)
		}
		if f := nextFlow(t, flows); f.Err != nil {
			t.Errorf("flow: %v", f.Err)
		}
	})
}

// A hook may think for as long as it likes while nobody asks for content: before it has any of it,
// after a part, and before it passes the response on.
func TestHTTP2_HookThinks(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		p.ContentTimeout = time.Minute
		p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			time.Sleep(5 * time.Minute)
			if req.URL.Path == "/part" {
				b := make([]byte, 1)
				io.ReadFull(req.Body, b)
				req.Body = &prefixed{io.MultiReader(bytes.NewReader(b), req.Body), req.Body}
				time.Sleep(5 * time.Minute)
			}
			return nil, nil
		}), mitm.OnResponse(func(*http.Response) error {
			time.Sleep(5 * time.Minute)
			return nil
		}))
		inBubbleWith(t, p, version, func(t *testing.T, o *flowOrigin, i *interception) {
			c := i.h2()
			for _, path := range []string{"/whole", "/part"} {
				o.got.Store(0)
				s := c.begin(false, ":method", "POST", ":path", path, "content-length", "3")
				c.data(s.id, true, "abc")
				if c.want(s, "200"); s.body.String() != "ok" || o.got.Load() != 3 {
					t.Errorf("%s: %q, the origin got %d bytes", path, s.body.String(), o.got.Load())
				}
			}
		})
	})
}

// prefixed is content of which a part was read.
type prefixed struct {
	io.Reader
	io.Closer
}
