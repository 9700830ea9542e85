package mitm_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"example.com/mitm"
)

// Content that ends in an error looks incomplete to whoever gets it (RFC 9112, section 8).
func TestR21_HookContentFails(t *testing.T) {
	for name, fail := range map[string]func() error{"error": fails, "panic": panics} {
		for _, size := range []int{10, 100 << 10} {
			for _, given := range []int64{-1, 1 << 20} {
				t.Run(fmt.Sprintf("%s %d of %d", name, size, given), func(t *testing.T) {
					content := func() io.ReadCloser { return endingIn{strings.NewReader(strings.Repeat("x", size)), fail} }
					requestContentFails(t, content(), given)
					responseContentFails(t, content(), given)
				})
			}
		}
	}
}

func requestContentFails(t *testing.T, content io.ReadCloser, given int64) {
	addr, got := recording(t, ok200)
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Logger: new(records).logger(), Hooks: []mitm.Hook{done,
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Body, req.ContentLength = content, given
			return nil, nil
		})}}))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
	c.wantStatus(502)
	if req := <-got; req.err == nil {
		t.Errorf("the origin got %d bytes", len(req.content))
	}
	wantHookError(t, nextFlow(t, flows))
}

func responseContentFails(t *testing.T, content io.ReadCloser, given int64) {
	addr, _ := answering(t, ok200)
	done, flows := doneHook()
	log := new(records)
	c := dial(t, start(t, &mitm.Proxy{Logger: log.logger(), Hooks: []mitm.Hook{done,
		mitm.OnResponse(func(res *http.Response) error {
			res.Body, res.ContentLength = content, given
			return nil
		})}}))
	c.send(getRequest(addr))
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("the client got %d bytes", len(b))
	}
	c.Close()
	wantHookError(t, nextFlow(t, flows))
}

func wantHookError(t *testing.T, f *mitm.Flow) {
	t.Helper()
	if op := (*mitm.OpError)(nil); !errors.As(f.Err, &op) || op.Op != "hook" {
		t.Errorf("error %v", f.Err)
	}
}

// Content that is found out to be broken before anything was sent becomes a 502.
func TestHookContentFailsEarly(t *testing.T) {
	for name, fail := range map[string]func() error{"error": fails, "panic": panics} {
		t.Run(name, func(t *testing.T) {
			addr, heads := answering(t, ok200)
			done, flows := doneHook()
			log := new(records)
			content := func() io.ReadCloser { return endingIn{strings.NewReader("abc"), fail} }
			c := dial(t, start(t, &mitm.Proxy{Logger: log.logger(), Hooks: []mitm.Hook{done,
				mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
					if req.Method == "POST" {
						req.Body = content()
					}
					return nil, nil
				}),
				mitm.OnResponse(func(res *http.Response) error {
					res.Body = content()
					return nil
				})}}))
			c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
			c.wantStatus(502)
			wantHookError(t, nextFlow(t, flows))
			if len(heads) > 0 {
				t.Errorf("the origin got %q", <-heads)
			}
			c.send(getRequest(addr))
			c.wantStatus(502)
			wantHookError(t, nextFlow(t, flows))
			if want := map[string]int{"error": 0, "panic": 2}[name]; log.count() != want {
				t.Errorf("%d log records, want %d", log.count(), want)
			}
		})
	}
}

// A length that a hook gives and does not keep to never makes a complete message.
func TestR18_HookGivesWrongLength(t *testing.T) {
	for _, size := range []int{50, 150} {
		content := func() io.ReadCloser { return fresh(nil, strings.Repeat("x", size)) }
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			requestContentFails(t, content(), 100)
			responseContentFails(t, content(), 100)
		})
	}
}

// The content of a response that a hook makes up may come for as long as the client
// wants it.
func TestHookAnswersWithoutEnd(t *testing.T) {
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{done,
		mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: infinite{}}, nil
		})}}))
	c.send(getRequest("origin.test"))
	if head := c.head(); !strings.Contains(head, "Transfer-Encoding: chunked") {
		t.Errorf("got %q", head)
	}
	c.read(1 << 20)
	c.Close()
	f := nextFlow(t, flows)
	if op := (*mitm.OpError)(nil); !errors.As(f.Err, &op) || op.Op != "send response" {
		t.Errorf("error %v", f.Err)
	}
	if f.Received() < 1<<20 {
		t.Errorf("received %d", f.Received())
	}
}

// What a hook leaves open is closed: otherwise the connection that it came on would stay.
func TestHookForgetsResponse(t *testing.T) {
	closed := make(chan struct{}, 1)
	addr := origin(t, func(c *peer) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun")
		c.rest()
		closed <- struct{}{}
	})
	for name, hook := range map[string]mitm.Hook{
		"replaced": mitm.OnResponse(func(res *http.Response) error { res.Body = fresh(nil, "new"); return nil }),
		"panic":    mitm.OnResponse(func(*http.Response) error { panic("oops") }),
		"forgotten": wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			next.RoundTrip(req)
			return text(200, "ok"), nil
		}),
		"twice": wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			next.RoundTrip(req)
			res, err := next.RoundTrip(req)
			res.Body = fresh(nil, "new")
			return res, err
		}),
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}, Logger: new(records).logger()}))
			c.send(getRequest(addr))
			c.response("GET")
			<-closed
			if name == "twice" {
				<-closed
			}
		})
	}
}
