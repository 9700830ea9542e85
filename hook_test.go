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
	"syscall"
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

// nextFlow returns the next flow, or fails the test.
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

func getRequest(addr string) string { return "GET http://" + addr + "/ HTTP/1.1\r\nHost: x\r\n\r\n" }

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
	c.send(getRequest(addr))
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
			c.send(getRequest("origin.test"))
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
			c.send(getRequest(addr)) // the connection goes on
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
			c.send(getRequest(addr))
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
		client, server := memPipe()
		(&mitm.Proxy{Mode: panicking{}, Logger: log.logger()}).ServeConn(t.Context(), server)
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want a reset", err)
		}
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
