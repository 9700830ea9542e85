package mitm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
)

// roundTripper is an http.RoundTripper of a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// wrapping is an HTTPHook of a function that may call next.
type wrapping func(next http.RoundTripper, req *http.Request) (*http.Response, error)

func (f wrapping) HookHTTP(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) { return f(next, req) })
}

// text is a response that a hook makes up.
func text(status int, content string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(content))}
}

// records is a log that a test can read.
type records struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *records) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Count(r.buf.Bytes(), []byte{'\n'})
}

func (r *records) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// doneHook hands flows over when they are done.
func doneHook() (mitm.Hook, chan *mitm.Flow) {
	flows := make(chan *mitm.Flow, 64)
	return mitm.OnDone(func(f *mitm.Flow) { flows <- f }), flows
}

// next returns the next flow, or fails the test.
func nextFlow(t *testing.T, flows chan *mitm.Flow) *mitm.Flow {
	t.Helper()
	select {
	case f := <-flows:
		return f
	case <-time.After(patience):
		t.Fatal("no HookDone")
		return nil
	}
}

func get(addr string) string { return "GET http://" + addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n" }

func TestHooksAreAnOnion(t *testing.T) {
	addr, _ := answering(t, ok200)
	var order []string
	say := func(s string) { order = append(order, s) }
	layer := func(name string) mitm.Hook {
		return wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			say(name + " in")
			defer say(name + " out")
			return next.RoundTrip(req)
		})
	}
	p := &mitm.Proxy{Hooks: []mitm.Hook{
		layer("a"),
		mitm.OnRequest(func(*http.Request) (*http.Response, error) { say("request"); return nil, nil }),
		mitm.OnResponse(func(*http.Response) error { say("response"); return nil }),
		layer("b"),
	}}
	c := dial(t, start(t, p))
	c.send(get(addr))
	c.wantStatus(200)
	want := []string{"a in", "request", "b in", "b out", "response", "a out"}
	if !slices.Equal(order, want) {
		t.Errorf("order %q, want %q", order, want)
	}
}

func TestHookAnswers(t *testing.T) {
	p := &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			res := text(418, "short and stout")
			res.Header = http.Header{"X-Tea": {"pot"}}
			return res, nil
		}),
	}}
	c := dial(t, start(t, p))
	for range 2 { // the connection goes on
		c.send("POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		res, body := c.response("POST")
		if res.Status != "418 I'm a teapot" || body != "short and stout" || res.Header.Get("X-Tea") != "pot" ||
			res.ContentLength != 15 || res.Header.Get("Date") == "" {
			t.Errorf("got %v %q", res, body)
		}
	}
	c.send("HEAD http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n")
	c.response("HEAD")
	c.send("GET http://origin.test/ HTTP/1.0\r\n\r\n")
	c.wantStatus(418)
	c.closed()
}

// A response without anything but a status is one.
func TestHookAnswersBare(t *testing.T) {
	for _, status := range []int{200, 204, 304} {
		p := &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{
			mitm.OnRequest(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: status}, nil
			}),
		}}
		c := dial(t, start(t, p))
		for range 2 {
			c.send(get("origin.test"))
			c.wantStatus(status)
		}
	}
}

func TestHookErrors(t *testing.T) {
	boom := errors.New("boom")
	timeout := context.DeadlineExceeded
	onRequest := func(err error) mitm.Hook {
		return mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, err })
	}
	onResponse := func(err error) mitm.Hook { return mitm.OnResponse(func(*http.Response) error { return err }) }
	tests := []struct {
		name   string
		hook   mitm.Hook
		status int // 0: a reset
		err    error
	}{
		{"request", onRequest(boom), 502, boom},
		{"response", onResponse(boom), 502, boom},
		{"request timeout", onRequest(timeout), 504, timeout},
		{"response timeout", onResponse(timeout), 504, timeout},
		{"request abort", onRequest(http.ErrAbortHandler), 0, http.ErrAbortHandler},
		{"response abort", onResponse(http.ErrAbortHandler), 0, http.ErrAbortHandler},
		{"request abort panic", mitm.OnRequest(func(*http.Request) (*http.Response, error) { panic(http.ErrAbortHandler) }), 0, http.ErrAbortHandler},
		{"response abort panic", mitm.OnResponse(func(*http.Response) error { panic(http.ErrAbortHandler) }), 0, http.ErrAbortHandler},
		{"nothing", wrapping(func(http.RoundTripper, *http.Request) (*http.Response, error) { return nil, nil }), 502, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := answering(t, ok200)
			done, flows := doneHook()
			log := new(records)
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{tt.hook, done}, Logger: log.logger()}))
			c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
			if tt.status == 0 {
				if got, err := c.rest(); got != "" || err == nil {
					t.Errorf("got %q, %v; want a reset", got, err)
				}
			} else {
				c.wantStatus(tt.status)
			}
			var op *mitm.OpError
			f := nextFlow(t, flows)
			if f.Status != tt.status || !errors.As(f.Err, &op) || op.Op != "hook" || tt.err != nil && !errors.Is(f.Err, tt.err) {
				t.Errorf("status %d, error %v", f.Status, f.Err)
			}
			if log.count() != 0 {
				t.Errorf("%d log records", log.count())
			}
			if tt.status == 0 {
				return
			}
			c.send(get(addr)) // the connection goes on
			c.wantStatus(tt.status)
		})
	}
}

func TestHookPanics(t *testing.T) {
	conn := mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { panic("oops") })
	tests := []struct {
		name   string
		hook   mitm.Hook
		status int
	}{
		{"request", mitm.OnRequest(func(*http.Request) (*http.Response, error) { panic("oops") }), 502},
		{"response", mitm.OnResponse(func(*http.Response) error { panic("oops") }), 502},
		{"conn", conn, 403},
		{"done", mitm.OnDone(func(*mitm.Flow) { panic("oops") }), 200},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr, _ := answering(t, ok200)
			log := new(records)
			done, flows := doneHook()
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{tt.hook, done}, Logger: log.logger()}))
			c.send(get(addr))
			c.wantStatus(tt.status)
			f := nextFlow(t, flows)
			if got := log.count(); got != 1 {
				t.Errorf("%d log records", got)
			}
			if f.Status != tt.status || (f.Err == nil) != (tt.status == 200) {
				t.Errorf("status %d, error %v", f.Status, f.Err)
			}
		})
	}
	t.Run("tunnel", func(t *testing.T) {
		log := new(records)
		c := dial(t, start(t, &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{conn}, Logger: log.logger()}))
		c.send("CONNECT origin.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantStatus(403)
		c.closed()
		if got := log.count(); got != 1 {
			t.Errorf("%d log records", got)
		}
	})
	t.Run("mode", func(t *testing.T) {
		log := new(records)
		c := dial(t, start(t, &mitm.Proxy{Mode: panicking{}, Logger: log.logger()}))
		c.closed()
		if got := log.count(); got != 1 {
			t.Errorf("%d log records", got)
		}
	})
}

type panicking struct{}

func (panicking) Destination(context.Context, *mitm.Conn) (mitm.Destination, error) { panic("oops") }

func TestHooksThatAreNone(t *testing.T) {
	for _, tt := range []struct {
		name string
		hook mitm.Hook
		want error
	}{
		{"none", "a string", nil},
		{"nil", nil, nil},
		{"message", mitm.OnMessage(func(context.Context, *mitm.Message) error { return nil }), errors.ErrUnsupported},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		err = (&mitm.Proxy{Hooks: []mitm.Hook{tt.hook}}).Serve(l)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: Serve returned %v", tt.name, err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: the listener is open: %v", tt.name, err)
		}
	}
}

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
	for range 1 {
		c.send(get(addr))
		c.wantStatus(504)
	}
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
	c.send(get(addr))
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
	c.send(get(addr))
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

