package mitm_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// In a bubble time passes only when everybody waits, so these tests measure exactly.
// Deadlines are set again only if they would move by more than a sixteenth.
func inBubble(t *testing.T, f func(t *testing.T, p *mitm.Proxy)) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) { f(t, p) })
	})
}

// wantElapsed fails the test unless about d has passed since start.
func wantElapsed(t *testing.T, start time.Time, d time.Duration) {
	t.Helper()
	if got := time.Since(start); got < d-d/16 || got > d+d/16 {
		t.Errorf("after %v, want %v", got, d)
	}
}

// neverAsked is an origin that must not get a request.
func neverAsked(c *peer) {
	if head, err := c.tryHead(); err == nil {
		c.t.Errorf("the origin was asked %q", head)
	}
}

// A head that takes too long is answered with 408, even if bytes of it keep coming.
func TestTimeout_Head(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.HeadTimeout = 16 * time.Second
		c := inMemory(t, p, neverAsked)
		start, dripped := time.Now(), make(chan struct{})
		go func() {
			defer close(dripped)
			for _, b := range headTo("origin.test", "GET", "/") {
				time.Sleep(time.Second)
				if _, err := c.Conn.Write([]byte(string(b))); err != nil {
					return
				}
			}
		}()
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 408 ") {
			t.Errorf("got %q", head)
		}
		wantElapsed(t, start, p.HeadTimeout+time.Second) // from the first byte
		c.Close()
		<-dripped
	})
}

// A connection on which nothing comes ends without a word, before the first request and
// between requests.
func TestTimeout_Idle(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.HeadTimeout, p.IdleTimeout = 16*time.Second, 32*time.Second
		ends := make(chan time.Time, 1)
		c := inMemory(t, p, func(c *peer) {
			c.tryHead()
			c.send(ok200)
			c.rest()
			ends <- time.Now()
		})
		c.send(headTo("origin.test", "GET", "/"))
		c.wantStatus(200)
		start := time.Now()
		c.closed()
		wantElapsed(t, start, p.IdleTimeout)
		if d := (<-ends).Sub(start); d > 2*p.IdleTimeout {
			t.Errorf("the origin connection was kept for %v", d)
		}
	})
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.HeadTimeout, p.IdleTimeout = 16*time.Second, 32*time.Second
		c, start := inMemory(t, p, neverAsked), time.Now()
		c.closed()
		wantElapsed(t, start, p.HeadTimeout)
	})
}

// An upload that stands still is answered with 408 and never looks complete.
func TestTimeout_Upload(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		got := make(chan error, 1)
		c := inMemory(t, p, func(c *peer) {
			req, _ := http.ReadRequest(c.r)
			_, err := io.ReadAll(req.Body)
			got <- err
		})
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10") + "part")
		start := time.Now()
		c.wantStatus(408)
		wantElapsed(t, start, p.ContentTimeout)
		if err := <-got; err == nil {
			t.Error("the upload looks complete")
		}
		c.closed()
	})
}

// answeringHere has a proxy that answers by itself, for every reason that it may have.
func answeringHere() map[int]*mitm.Proxy {
	answer := func(status int, err error) []mitm.Hook {
		return []mitm.Hook{mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			if err != nil {
				return nil, err
			}
			return text(status, "no"), nil
		})}
	}
	return map[int]*mitm.Proxy{
		401: {Hooks: answer(401, nil)},
		403: {Hooks: []mitm.Hook{rejects}},
		407: {Mode: mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"user": "pass"})}},
		502: {Hooks: answer(0, errors.New("no"))},
	}
}

// An answer of the proxy's own does not wait for an upload whose client may be waiting for the
// answer, even if bytes of it keep coming. Then the connection can't go on.
func TestTimeout_RefusedUpload(t *testing.T) {
	for name, upload := range map[string][2]string{
		"length":  {headTo("origin.test", "POST", "/", "Content-Length: 1000") + "part", "xx"},
		"chunked": {headTo("origin.test", "POST", "/", "Transfer-Encoding: chunked") + "4\r\npart\r\n", "2\r\nxx\r\n"},
		"line":    {headTo("origin.test", "POST", "/", "Transfer-Encoding: chunked") + "4\r\npart\r\n", "00"},
		"trailer": {headTo("origin.test", "POST", "/", "Transfer-Encoding: chunked") + "0\r\n", "A: b\r\n"},
		"silent":  {headTo("origin.test", "POST", "/", "Content-Length: 10") + "part", ""},
	} {
		for status, p := range answeringHere() {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, start := inMemory(t, p, neverAsked), time.Now()
					c.send(upload[0])
					dripped := make(chan struct{})
					go func() {
						defer close(dripped)
						for upload[1] != "" && time.Since(start) < 5*time.Second {
							time.Sleep(50 * time.Millisecond)
							io.WriteString(c.Conn, upload[1])
						}
					}()
					if res, _ := c.response("POST"); res.StatusCode != status || !res.Close {
						t.Errorf("%s, close %v", res.Status, res.Close)
					}
					if d := time.Since(start); d > time.Second {
						t.Errorf("answered after %v", d)
					}
					c.closed()
					<-dripped
				})
			})
		}
	}
}

// A small upload that is on its way already does not cost the connection.
func TestTimeout_RefusedUploadKept(t *testing.T) {
	for status, p := range answeringHere() {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := inMemory(t, p, neverAsked)
				for range 3 {
					c.send(headTo("origin.test", "POST", "/", "Transfer-Encoding: chunked"))
					for _, piece := range []string{"4\r\npart\r\n", "0\r\nA: b", "\r\n\r\n"} {
						time.Sleep(20 * time.Millisecond)
						c.send(piece)
					}
					if res, _ := c.response("POST"); res.StatusCode != status || res.Close {
						t.Fatalf("%s, close %v", res.Status, res.Close)
					}
					time.Sleep(time.Second) // the time for what was left does not count for the next request
				}
			})
		})
	}
}

// A response that stands still is cut where it stands; one that trickles is not.
func TestTimeout_Response(t *testing.T) {
	for name, head := range map[string]string{
		"length":          "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
		"chunked":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n",
		"close-delimited": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *mitm.Proxy) {
				p.ContentTimeout = 16 * time.Second
				c := inMemory(t, p, func(c *peer) {
					c.tryHead()
					c.send(head)
					for range 4 {
						time.Sleep(10 * time.Second)
						c.send("x")
					}
					c.rest()
				})
				c.send(headTo("origin.test", "GET", "/"))
				c.head()
				start := time.Now()
				got, err := c.rest()
				wantElapsed(t, start, 40*time.Second+p.ContentTimeout)
				if strings.Count(got, "x") != 4 || strings.Contains(got, "0\r\n") || err == nil && name == "close-delimited" {
					t.Errorf("got %q, %v", got, err)
				}
			})
		})
	}
}

// A client that does not read its response is not waited for without end.
func TestTimeout_Reader(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		ended := make(chan time.Time, 1)
		c := inMemory(t, p, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 10000000))
			ended <- time.Now()
		})
		start := time.Now()
		c.send(headTo("origin.test", "GET", "/"))
		if got := (<-ended).Sub(start); got < p.ContentTimeout || got > 2*p.ContentTimeout {
			t.Errorf("the origin was held up for %v", got)
		}
		if got, err := c.rest(); err == nil || len(got) > 1<<20 {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	})
}

// The time for a response counts from the end of the request, or the last interim one,
// and is not extended by single bytes of its head.
func TestR42_ResponseTimeout(t *testing.T) {
	const patient = 16 * time.Second
	for name, test := range map[string]struct {
		request string
		content int // bytes, one in 10 seconds
		answer  func(c *peer)
		wait    time.Duration
	}{
		"GET":  {request: headTo("origin.test", "GET", "/"), wait: patient},
		"POST": {request: headTo("origin.test", "POST", "/", "Content-Length: 5"), content: 5, wait: 50*time.Second + patient},
		"interim": {request: headTo("origin.test", "GET", "/"), wait: 40*time.Second + patient, answer: func(c *peer) {
			for range 4 {
				time.Sleep(10 * time.Second)
				c.send("HTTP/1.1 102 Processing\r\n\r\n")
			}
		}},
		"trickle": {request: headTo("origin.test", "GET", "/"), wait: patient, answer: func(c *peer) {
			for _, b := range ok200 {
				time.Sleep(time.Second)
				c.send(string(b))
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, p *mitm.Proxy) {
				p.ResponseTimeout = patient
				c := inMemory(t, p, func(c *peer) {
					c.tryHead()
					if test.answer != nil {
						test.answer(c)
					}
					c.rest()
				})
				start := time.Now()
				c.send(test.request)
				for range test.content {
					time.Sleep(10 * time.Second)
					c.send("x")
				}
				head := c.head()
				for strings.HasPrefix(head, "HTTP/1.1 102 ") {
					head = c.head()
				}
				text, _ := c.r.ReadString('\n')
				if !strings.HasPrefix(head, "HTTP/1.1 504 ") || !strings.HasPrefix(text, "read response origin.test:80: ") {
					t.Errorf("got %q%q", head, text)
				}
				if got := time.Since(start); got < test.wait || got > test.wait+patient {
					t.Errorf("after %v, want %v", got, test.wait)
				}
			})
		})
	}
}

// Pipelined requests that are read while a slow one is served are served after it.
func TestR23_PipeliningSlow(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		c := inMemory(t, p, func(c *peer) {
			for {
				req, err := http.ReadRequest(c.r)
				if err != nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				time.Sleep(time.Second)
				fmt.Fprintf(c.Conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n%s%s", req.URL.Path, b)
			}
		})
		c.send(headTo("origin.test", "GET", "/one"))
		time.Sleep(500 * time.Millisecond) // the proxy watches the client now
		c.send(headTo("origin.test", "POST", "/1", "Content-Length: 2") + "=2" + headTo("origin.test", "GET", "/six"))
		for _, want := range []string{"/one", "/1=2", "/six"} {
			if _, body := c.response("GET"); body != want {
				t.Errorf("got %q, want %q", body, want)
			}
		}
	})
}
