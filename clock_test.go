package mitm_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// Content that goes both ways has one clock: it stands still when nothing moves in either direction.

// twoWays is an exchange in which both directions are open. Either side may send chunks.
type twoWays struct{ client, origin *peer }

const oneChunk = "1\r\nx\r\n"

// inTwoWays runs f in bubbles, with 16 s of patience, for clients in the clear and inside TLS.
func inTwoWays(t *testing.T, f func(t *testing.T, w *twoWays)) {
	for name, secure := range map[string]bool{"clear": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *mitm.Proxy) {
				p.ContentTimeout = 16 * time.Second
				w, ready, release := new(twoWays), make(chan bool), make(chan bool)
				serve := func(c *peer) {
					c.head()
					c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
					w.origin = c
					close(ready)
					<-release
				}
				request := "POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nTransfer-Encoding: chunked\r\n\r\n"
				if secure {
					i := inMemoryTLS(t, p, &tls.Config{}, func(c *tls.Conn) { serve(newTimelessPeer(t, c)) })
					w.client = newTimelessPeer(t, i.tls("http/1.1"))
					request = strings.Replace(request, "http://origin.test", "", 1)
				} else {
					w.client = inMemory(t, p, serve)
				}
				defer close(release)
				defer w.client.Close()
				w.client.send(request)
				w.client.head()
				<-ready
				f(t, w)
			})
		})
	}
}

// sendSlowly sends n chunks, one every 10 seconds.
func (p *peer) sendSlowly(n int) {
	for range n {
		time.Sleep(10 * time.Second)
		p.send(oneChunk)
	}
}

// wantChunks reads n of them.
func (p *peer) wantChunks(n int) {
	p.t.Helper()
	if got := p.read(n * len(oneChunk)); got != strings.Repeat(oneChunk, n) {
		p.t.Errorf("got %q", got)
	}
}

// One direction may be silent for as long as the other is not, and have its turn then.
func TestR69_OneDirection(t *testing.T) {
	inTwoWays(t, func(t *testing.T, w *twoWays) {
		for range 2 {
			w.origin.sendSlowly(30)
			w.client.wantChunks(30)
			w.client.sendSlowly(30)
			w.origin.wantChunks(30)
		}
		w.client.send("0\r\n\r\n")
		w.origin.read(5)
		w.origin.send("0\r\n\r\n")
		w.client.read(5)
	})
}

// When neither moves the time begins with what moved last.
func TestR69_NeitherMoves(t *testing.T) {
	inTwoWays(t, func(t *testing.T, w *twoWays) {
		w.client.sendSlowly(3)
		w.origin.sendSlowly(3)
		start := time.Now()
		w.client.wantChunks(3)
		if got, _ := w.client.rest(); got != "" {
			t.Errorf("more bytes: %q", got)
		}
		wantElapsed(t, start, 16*time.Second)
	})
}

// A client that takes nothing of the response is given time as long as it sends, and an origin that takes
// nothing of the content as long as it sends.
func TestR69_StalledReader(t *testing.T) {
	const size = 1 << 20
	large := fmt.Sprintf("%x\r\n%s\r\n", size, strings.Repeat("y", size))
	for name, ends := range map[string]func(w *twoWays) (stalled, other *peer){
		"client": func(w *twoWays) (stalled, other *peer) { return w.client, w.origin },
		"origin": func(w *twoWays) (stalled, other *peer) { return w.origin, w.client },
	} {
		t.Run(name, func(t *testing.T) {
			inTwoWays(t, func(t *testing.T, w *twoWays) {
				stalled, other := ends(w)
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(other.Conn, large)
					sent <- err
				}()
				stalled.sendSlowly(30)
				other.wantChunks(30)
				n := 0
				for n < size { // the chunks may be others by now
					line, err := stalled.r.ReadString('\n')
					k := 0
					if fmt.Sscanf(line, "%x", &k); err != nil || k == 0 {
						t.Fatalf("%d bytes, then %q, %v", n, line, err)
					}
					n += k
					stalled.read(k + 2)
				}
				if err := <-sent; err != nil {
					t.Errorf("sending: %v", err)
				}
			})
		})
	}
}

// Interim responses show that an exchange moves, too.
func TestR69_Interim(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		c := inMemory(t, p, func(c *peer) {
			head, _ := c.tryHead()
			for range 30 {
				time.Sleep(10 * time.Second)
				c.send("HTTP/1.1 102 Processing\r\n\r\n")
			}
			c.skipContent(head)
			c.send(ok200)
		})
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10") + "01234")
		for range 30 {
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 102 ") {
				t.Fatalf("got %q", head)
			}
		}
		c.send("56789")
		c.wantStatus(200)
	})
}

// The same with HTTP/2 on one side or both.
func TestR69_HTTP2(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		p.ContentTimeout = 16 * time.Second
		synctest.Test(t, func(t *testing.T) {
			config := &tls.Config{}
			serve := func(c *tls.Conn) {
				o := newTimelessPeer(t, c)
				o.head()
				o.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				o.sendSlowly(20)
				o.wantChunks(20)
				o.send("0\r\n\r\n")
			}
			if version == 2 {
				config.NextProtos = []string{"h2"}
				serve = func(tc *tls.Conn) {
					c := newH2Peer(t, tc, false)
					s := c.accept()
					c.headers(s.id, false, ":status", "200")
					for range 20 {
						time.Sleep(10 * time.Second)
						c.data(s.id, false, "x")
					}
					c.until(func() bool { return s.body.Len() == 20 || s.over() })
					c.data(s.id, true, "")
					c.until(func() bool { return s.over() })
				}
			}
			c := inMemoryTLS(t, p, config, serve).h2()
			s := c.begin(false, ":method", "POST")
			c.until(func() bool { return s.body.Len() == 20 || s.over() })
			for range 20 {
				time.Sleep(10 * time.Second)
				c.data(s.id, false, "x")
			}
			if c.want(s, "200"); s.body.Len() != 20 {
				t.Errorf("%d bytes", s.body.Len())
			}
		})
	})
}

// A client of HTTP/1 and an origin of HTTP/2.
func TestR69_HTTP2Origin(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		cert, _ := exampleCert()
		config := onlyHTTP2(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		i := inMemoryTLS(t, p, config, func(tc *tls.Conn) {
			c := newH2Peer(t, tc, false)
			s := c.accept()
			c.headers(s.id, false, ":status", "200")
			for range 20 {
				time.Sleep(10 * time.Second)
				c.data(s.id, false, "x")
			}
			c.until(func() bool { return s.body.Len() == 20 || s.over() })
			c.data(s.id, true, "")
			c.accept()
		})
		c := newTimelessPeer(t, i.tls("http/1.1"))
		c.send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n")
		c.head()
		c.wantChunks(20)
		c.sendSlowly(20)
		if got := c.read(5); got != "0\r\n\r\n" {
			t.Errorf("got %q", got)
		}
	})
}

// What an origin says before its answer gives it no more time for that.
func TestR69_InterimThenSilence(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ResponseTimeout, p.ContentTimeout = 2*time.Second, time.Minute
		c := inMemory(t, p, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 100 Continue\r\n\r\n")
			c.rest()
		})
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10", "Expect: 100-continue"))
		c.wantStatus(100)
		for range 10 {
			time.Sleep(7 * time.Second)
			c.send("x")
		}
		start := time.Now()
		c.wantStatus(504)
		if d := time.Since(start); d < p.ResponseTimeout || d > 2*p.ResponseTimeout {
			t.Errorf("it ended after %v", d)
		}
	})
}

// What is left of content that a hook has replaced does not hold the answer up, however long the clock ran.
func TestR69_ReplacedContent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", 1<<20))), 1<<20
			res, err := next.RoundTrip(req)
			time.Sleep(time.Minute)
			return res, err
		})
		c := inMemory(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}, func(c *peer) {
			head, _ := c.tryHead()
			c.send("HTTP/1.1 102 Processing\r\n\r\n")
			c.skipContent(head)
			c.send(ok200)
		})
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10"))
		start := time.Now()
		time.AfterFunc(time.Minute+50*time.Millisecond, func() { c.send("01234") }) // some of it, and no more
		c.wantStatus(102)
		c.wantStatus(200)
		wantElapsed(t, start, time.Minute)
	})
}
