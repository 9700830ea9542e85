package mitm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// A hook may try again, with the content put back.
func TestHookRetries(t *testing.T) {
	var heads []string
	addr := origin(t, func(c *peer) {
		for {
			head, err := c.tryHead()
			if err != nil {
				return
			}
			heads = append(heads, head+c.read(3))
			if len(heads) < 3 {
				c.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
				continue
			}
			c.send(ok200)
		}
	})
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		content, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		for try := 0; ; try++ {
			req.Body = io.NopCloser(bytes.NewReader(content))
			res, err := next.RoundTrip(req)
			if err != nil || res.StatusCode != 503 {
				return res, err
			}
			if try == 0 { // a hook that forgets this must not leak
				res.Body.Close()
			}
		}
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nA: b\r\n\r\nabc")
	c.wantStatus(200)
	want := "POST / HTTP/1.1\r\nHost: " + addr + "\r\nContent-Length: 3\r\nA: b\r\n\r\nabc"
	for i, got := range heads {
		if got != want {
			t.Errorf("try %d: %q, want %q", i, got, want)
		}
	}
}

// Content that is gone can't be sent again; what would be an incomplete or an empty
// message is an error.
func TestHookRetriesWithoutContent(t *testing.T) {
	for name, content := range map[string]string{
		"length":  "Content-Length: 3\r\n\r\nabc",
		"chunked": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			addr, heads := answering(t, ok200)
			var second error
			hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
				io.Copy(io.Discard, req.Body)
				res, err := next.RoundTrip(req)
				second = err
				return res, err
			})
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
			c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\n" + content)
			c.wantStatus(502)
			if second == nil || len(heads) != 0 {
				t.Errorf("sent %d requests, error %v", len(heads), second)
			}
		})
	}
}

func TestHookTimeout(t *testing.T) {
	gone := make(chan struct{})
	addr := origin(t, func(c *peer) {
		c.head()
		c.rest() // never answers
		close(gone)
	})
	done, flows := doneHook()
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		ctx, cancel := context.WithTimeout(req.Context(), 20*time.Millisecond)
		defer cancel()
		return next.RoundTrip(req.WithContext(ctx))
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook, done}}))
	c.send(getRequest(addr))
	c.wantStatus(504)
	if f := nextFlow(t, flows); !errors.Is(f.Err, context.DeadlineExceeded) {
		t.Errorf("error %v", f.Err)
	}
	<-gone
}

func TestHookUsesNextTooLate(t *testing.T) {
	addr, heads := answering(t, ok200)
	late := make(chan func() error, 1)
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		late <- func() error {
			_, err := next.RoundTrip(req)
			return err
		}
		return text(200, "ok"), nil
	})
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook, done}}))
	c.send(getRequest(addr))
	c.wantStatus(200)
	nextFlow(t, flows)
	if err := (<-late)(); err == nil || len(heads) > 0 {
		t.Errorf("error %v, %d requests sent", err, len(heads))
	}
}

// A hook that leaves a call of next running does not disturb what comes after.
func TestHookLeavesNextRunning(t *testing.T) {
	asked := make(chan struct{}, 1)
	addr := origin(t, func(c *peer) {
		c.head()
		asked <- struct{}{}
		c.rest() // never answers
	})
	ended := make(chan error, 1)
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		go func() {
			_, err := next.RoundTrip(req)
			ended <- err
		}()
		<-asked
		return text(200, "ok"), nil
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send(getRequest(addr))
	c.wantStatus(200)
	c.closeWrite()
	c.closed()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no error")
		}
	case <-time.After(patience):
		t.Error("still running")
	}
}

// next may be called by several goroutines at once.
func TestHookCallsNextTwiceAtOnce(t *testing.T) {
	addr, _ := answering(t, ok200)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			results := make(chan *http.Response, 2)
			for range 2 {
				go func() {
					res, err := next.RoundTrip(req.Clone(req.Context()))
					if err != nil {
						t.Error(err)
					}
					results <- res
				}()
			}
			res := <-results
			if other := <-results; other != nil {
				other.Body.Close()
			}
			return res, nil
		}),
	}}))
	for range 5 {
		c.send(getRequest(addr))
		c.wantStatus(200)
	}
}

// The content goes to one origin only, also if it is still on its way there.
func TestHookRetriesDuringUpload(t *testing.T) {
	const size = 200_000
	got := make(chan int, 1)
	addr := origin(t, func(c *peer) {
		c.head()
		c.send("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")
		rest, _ := c.rest()
		got <- len(rest)
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			if _, err := next.RoundTrip(req.Clone(req.Context())); err == nil {
				t.Error("sent twice")
			}
			return res, nil
		}),
	}}))
	c.send(fmt.Sprintf("POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", addr, size))
	c.wantStatus(503)
	c.send(strings.Repeat("x", size/2))
	c.Close()
	if n := receive(t, got); n >= size {
		t.Errorf("%d bytes", n)
	}
}

// A client that waits for 100 (Continue) is told to go on if a hook wants the content after all:
// no origin was there, or one has answered without it.
func TestHookReadsAfterNext(t *testing.T) {
	for name, response := range map[string]string{"no origin": "", "early answer": "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"} {
		t.Run(name, func(t *testing.T) {
			addr := origin(t, func(c *peer) { c.head(); c.send(response); c.rest() })
			proxy := &mitm.Proxy{Hooks: []mitm.Hook{
				wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
					if res, err := next.RoundTrip(req); err == nil {
						res.Body.Close()
					}
					b, err := io.ReadAll(req.Body)
					return text(200, string(b)), err
				}),
			}}
			if response == "" {
				proxy.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
			}
			c := dial(t, start(t, proxy))
			for framing, content := range map[string]string{"Content-Length: 3": "abc", "Transfer-Encoding: chunked": "3\r\nabc\r\n0\r\n\r\n"} {
				c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n" + framing + "\r\n\r\n")
				if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
					t.Fatalf("%q", head)
				}
				c.send(content)
				if res, body := c.response("POST"); res.StatusCode != 200 || body != "abc" {
					t.Errorf("%s: %q", res.Status, body)
				}
			}
		})
	}
}

// A hook may leave a call of next running and answer, at whatever moment the call is.
func TestHookAnswersWhileNextRuns(t *testing.T) {
	addr, roots := handlerOrigin(t, 1, func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		io.WriteString(w, "late")
	})
	for _, size := range []int{0, 10, 100_000} {
		for _, late := range []bool{false, true} {
			pause := func() time.Duration { return rand.N(time.Millisecond) }
			i := intercept(t, &mitm.Proxy{Hooks: []mitm.Hook{
				wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
					go func() {
						if late {
							time.Sleep(pause())
						}
						next.RoundTrip(req)
					}()
					time.Sleep(2 * pause())
					return text(200, "early"), nil
				}),
			}}, addr, roots)
			for range 50 {
				tc := i.tls("http/1.1")
				c := newPeer(t, tc)
				c.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)))
				if res, body := c.response("POST"); res.StatusCode != 200 || body != "early" {
					t.Errorf("%s: %q", res.Status, body)
				}
				tc.Close()
			}
		}
	}
}
