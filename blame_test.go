package mitm_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// blameTest is an exchange that fails, and who is to blame for that.
type blameTest struct {
	name      string
	hook      mitm.Hook
	transport http.RoundTripper
	request   string // method and path, which says what the origin does; "": GET /
	stops     bool   // the client sends 3 bytes of its content and then stops
	leaves    bool   // the client leaves once nothing moves any more

	op   string
	addr bool  // of the origin is named
	is   error // the error is this, too
}

// codeInternalError is INTERNAL_ERROR (RFC 9113, section 7).
const codeInternalError = 2

var errBlame = errors.New("the fault of somebody")

// short is less content than a message that is said to have 100 bytes of it.
func short() io.ReadCloser { return fresh(nil, "short") }

func failingBody() io.ReadCloser {
	return &endingIn{strings.NewReader("abc"), func() error { return errBlame }}
}

// passedOn is content of others behind a reader of a hook.
func passedOn(r io.ReadCloser) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(r), r}
}

func onBody(f func(body io.ReadCloser) (io.ReadCloser, int64)) mitm.Hook {
	return mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		req.Body, req.ContentLength = f(req.Body)
		return nil, nil
	})
}

func onResponseBody(f func(body io.ReadCloser) (io.ReadCloser, int64)) mitm.Hook {
	return mitm.OnResponse(func(res *http.Response) error {
		res.Body, res.ContentLength = f(res.Body)
		return nil
	})
}

// answerWith is a Transport.
func answerWith(body func() io.ReadCloser, length int64, err error) roundTripper {
	return func(*http.Request) (*http.Response, error) {
		if err != nil {
			return nil, err
		}
		return &http.Response{StatusCode: 200, ContentLength: length, Body: body()}, nil
	}
}

var blameTests = []blameTest{
	{name: "origin cuts", request: "GET /cut", op: "read response", addr: true},
	{name: "origin cuts, hook copies", request: "GET /cut", op: "read response", addr: true,
		hook: onResponseBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), -1 })},
	{name: "origin cuts, hook copies and is measured", request: "GET /cut", op: "read response", addr: true,
		hook: onResponseBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), 0 })},
	{name: "origin cuts, hook reads", request: "GET /cut", op: "read response", addr: true,
		hook: mitm.OnResponse(func(res *http.Response) error { _, err := io.ReadAll(res.Body); return err })},
	{name: "origin cuts, hook reads and says so", request: "GET /cut", op: "read response", addr: true,
		hook: mitm.OnResponse(func(res *http.Response) error {
			_, err := io.ReadAll(res.Body)
			return fmt.Errorf("reading: %w", err)
		})},
	{name: "origin closes", request: "GET /close", op: "read response", addr: true},
	{name: "nobody listens", request: "GET /refused", op: "dial", addr: true, is: syscall.ECONNREFUSED},

	{name: "hook fails", op: "hook", is: errBlame,
		hook: mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, errBlame })},
	{name: "hook panics", op: "hook",
		hook: mitm.OnRequest(func(*http.Request) (*http.Response, error) { panic("oops") })},
	{name: "short answer of a hook", op: "hook",
		hook: mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: 100, Body: short()}, nil
		})},
	{name: "short response of a hook", op: "hook",
		hook: onResponseBody(func(io.ReadCloser) (io.ReadCloser, int64) { return short(), 100 })},
	{name: "response of a hook fails", op: "hook", is: errBlame,
		hook: onResponseBody(func(io.ReadCloser) (io.ReadCloser, int64) { return failingBody(), -1 })},
	{name: "response of a hook fails though the origin's was cut", request: "GET /cut", op: "hook", is: errBlame,
		hook: onResponseBody(func(b io.ReadCloser) (io.ReadCloser, int64) { io.ReadAll(b); return failingBody(), -1 })},
	{name: "response of a hook panics", op: "hook",
		hook: onResponseBody(func(io.ReadCloser) (io.ReadCloser, int64) { return endingIn{strings.NewReader(""), panics}, -1 })},
	{name: "short request of a hook", request: "POST /read", op: "hook",
		hook: onBody(func(io.ReadCloser) (io.ReadCloser, int64) { return short(), 100 })},
	{name: "request of a hook fails", request: "POST /read", op: "hook", is: errBlame,
		hook: onBody(func(io.ReadCloser) (io.ReadCloser, int64) { return failingBody(), 100 })},
	{name: "request of a hook fails measured", request: "POST /read", op: "hook", is: errBlame,
		hook: onBody(func(io.ReadCloser) (io.ReadCloser, int64) { return failingBody(), 0 })},

	{name: "transport fails", transport: answerWith(nil, 0, errBlame), op: "transport", addr: true, is: errBlame},
	{name: "transport fails, hook passes that on", hook: noChange(), transport: answerWith(nil, 0, errBlame), op: "transport", addr: true, is: errBlame},
	{name: "transport panics", op: "transport", addr: true,
		transport: roundTripper(func(*http.Request) (*http.Response, error) { panic("oops") })},
	{name: "transport returns nothing", op: "transport", addr: true,
		transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, nil })},
	{name: "short response of a transport", hook: noChange(), transport: answerWith(short, 100, nil), op: "transport", addr: true},
	{name: "response of a transport fails", transport: answerWith(failingBody, -1, nil), op: "transport", addr: true, is: errBlame},
	{name: "response of a transport fails measured", transport: answerWith(failingBody, 0, nil), op: "transport", addr: true, is: errBlame},
	{name: "short response of a hook after a transport", transport: answerWith(short, 5, nil), op: "hook",
		hook: onResponseBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), 100 })},

	{name: "client stops", request: "POST /read", stops: true, op: "read request", is: mitm.ErrClientGone},
	{name: "client stops, hook copies", request: "POST /read", stops: true, op: "read request", is: mitm.ErrClientGone,
		hook: onBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), -1 })},
	{name: "client stops, hook copies and is measured", request: "POST /read", stops: true, op: "read request", is: mitm.ErrClientGone,
		hook: onBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), 0 })},
	{name: "client stops, hook reads", request: "POST /read", stops: true, op: "read request", is: mitm.ErrClientGone,
		hook: mitm.OnRequest(func(req *http.Request) (*http.Response, error) { _, err := io.ReadAll(req.Body); return nil, err })},
	{name: "client leaves while it waits", request: "GET /wait", leaves: true, op: "read response", addr: true, is: mitm.ErrClientGone},
	{name: "client leaves while it is dialled", request: "GET /dial", leaves: true, op: "dial", addr: true, is: mitm.ErrClientGone},
	{name: "client leaves while a hook works", leaves: true, op: "hook", is: mitm.ErrClientGone,
		hook: mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		})},
	{name: "client leaves while a hook writes", leaves: true, op: "send response", is: mitm.ErrClientGone,
		hook: mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: -1, Body: infinite{}}, nil
		})},
	{name: "client leaves while the origin writes", request: "GET /endless", leaves: true, op: "", is: mitm.ErrClientGone},
}

// blameOrigin does what the path of a request says.
func blameOrigin(c *peer) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		return
	}
	switch req.URL.Path {
	case "/cut":
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
	case "/close":
	case "/wait":
		io.Copy(io.Discard, c.r)
	case "/endless":
		io.WriteString(c.Conn, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for err == nil {
			_, err = io.WriteString(c.Conn, "1000\r\n"+strings.Repeat("x", 0x1000)+"\r\n")
		}
	default:
		io.Copy(io.Discard, req.Body)
		c.send(ok200)
		io.Copy(io.Discard, c.r)
	}
}

// blameOrigin2 is that in HTTP/2.
func blameOrigin2(c *h2peer) {
	for s := c.accept(); s != nil; s = c.accept() {
		switch valueOf(s.head, ":path") {
		case "/cut":
			c.headers(s.id, false, ":status", "200", "content-length", "10")
			c.data(s.id, false, "begun")
			c.cancel(s, codeProtocol)
		case "/close":
			c.nc.Close()
			return
		case "/wait":
		case "/endless":
			c.headers(s.id, false, ":status", "200")
			c.pour(s.id, 1<<30, true, nil)
		default:
			if c.until(s.over); s.reset == nil {
				c.answer(s, "ok")
			}
		}
	}
}

// Whoever made an exchange fail is named: the client, the origin with its address, a hook or a
// Transport; in HTTP/1, in HTTP/2, and from one to the other.
func TestR87_Blame(t *testing.T) {
	for _, tt := range blameTests {
		for _, versions := range []string{"1 to 1", "2 to 1", "2 to 2"} {
			t.Run(tt.name+" "+versions, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { tt.run(t, versions[0] == '2', versions[5] == '2') })
			})
		}
	}
}

const blameAddr = "origin.test:80"

func (tt *blameTest) run(t *testing.T, client2, origin2 bool) {
	done, flows := doneHook()
	p := &mitm.Proxy{Hooks: []mitm.Hook{done}, Transport: tt.transport, Logger: slog.New(slog.DiscardHandler)}
	if origin2 {
		p.Mode = fixed(mitm.Destination{Addr: blameAddr})
	}
	if tt.hook != nil {
		p.Hooks = append(p.Hooks, tt.hook)
	}
	l := newMemListener()
	var running sync.WaitGroup
	l.serve(&running, func(nc net.Conn) {
		if origin2 {
			blameOrigin2(newH2Peer(t, nc, false))
		} else {
			blameOrigin(newTimelessPeer(t, nc))
		}
	})
	method, path, _ := strings.Cut(cmp.Or(tt.request, "GET /"), " ")
	p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		switch path {
		case "/refused":
			return nil, syscall.ECONNREFUSED
		case "/dial":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return l.Dial(ctx, network, addr)
	}
	client, server := memPipe()
	running.Go(func() { p.ServeConn(context.Background(), server) })
	if client2 {
		tt.ask2(newH2Peer(t, client, true), method, path)
	} else {
		tt.ask1(client, method, path)
	}
	time.Sleep(time.Second) // so that it is watched whether the client leaves
	synctest.Wait()
	if tt.leaves {
		client.Close()
	}
	tt.check(t, nextFlow(t, flows))
	client.Close()
	p.Close()
	l.Close()
	running.Wait()
}

func (tt *blameTest) ask1(c *memConn, method, path string) {
	content := ""
	if method == "POST" {
		content = "0123456789"
	}
	io.WriteString(c, fmt.Sprintf("%s http://origin.test%s HTTP/1.1\r\nHost: origin.test\r\n", method, path))
	if content != "" {
		io.WriteString(c, "Content-Length: 10\r\n")
	}
	io.WriteString(c, "\r\n")
	if tt.stops {
		io.WriteString(c, content[:3])
		c.CloseWrite()
		return
	}
	io.WriteString(c, content)
}

func (tt *blameTest) ask2(c *h2peer, method, path string) {
	s := c.begin(method != "POST", ":method", method, ":path", path, ":scheme", "http", ":authority", "origin.test")
	if tt.stops {
		c.data(s.id, false, "012")
		c.ping()
		c.cancel(s, codeCancel)
	} else if method == "POST" {
		c.data(s.id, true, "0123456789")
	}
	c.ping()
}

func (tt *blameTest) check(t *testing.T, f *mitm.Flow) {
	t.Helper()
	op, ok := errors.AsType[*mitm.OpError](f.Err)
	if !ok {
		t.Fatalf("flow: %v", f.Err)
	}
	if tt.op != "" && (op.Op != tt.op || (op.Addr != "") != tt.addr) || op.Addr != "" && !strings.HasPrefix(op.Addr, "origin.test:") {
		t.Errorf("flow: %q at %q: %v", op.Op, op.Addr, op.Err)
	}
	if tt.is != nil && !errors.Is(f.Err, tt.is) || errors.Is(f.Err, mitm.ErrClientGone) != (tt.is == mitm.ErrClientGone) {
		t.Errorf("flow: %v", f.Err)
	}
}

// From HTTP/1 to an origin that speaks HTTP/2.
func TestR87_BlameHTTP2Origin(t *testing.T) {
	config := &tls.Config{NextProtos: []string{"h2"}}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, "h2") {
			return nil, nil
		}
		only := config.Clone() // crypto/tls itself would let HTTP/1 in
		only.GetConfigForClient, only.NextProtos = nil, []string{"none of these"}
		return only, nil
	}
	addr, roots := tlsOrigin(t, config, func(c *tls.Conn) { blameOrigin2(newH2Peer(t, c, false)) }, nil)
	for name, test := range map[string]struct {
		hook          mitm.Hook
		request, step string
	}{
		"no hook":         {nil, "GET /cut", "read response"},
		"hook":            {noChange(), "GET /cut", "read response"},
		"hook copies":     {onResponseBody(func(b io.ReadCloser) (io.ReadCloser, int64) { return passedOn(b), -1 }), "GET /cut", "read response"},
		"request of hook": {onBody(func(io.ReadCloser) (io.ReadCloser, int64) { return short(), 100 }), "POST /read", "hook"},
		"fails":           {onBody(func(io.ReadCloser) (io.ReadCloser, int64) { return failingBody(), -1 }), "POST /read", "hook"},
	} {
		t.Run(name, func(t *testing.T) {
			done, flows := doneHook()
			p := &mitm.Proxy{Hooks: []mitm.Hook{done}}
			if test.hook != nil {
				p.Hooks = append(p.Hooks, test.hook)
			}
			c := newPeer(t, intercept(t, p, addr, roots).tls("http/1.1"))
			c.send(test.request + " HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n")
			c.rest()
			f := nextFlow(t, flows)
			op, ok := errors.AsType[*mitm.OpError](f.Err)
			if !ok || op.Op != test.step || (op.Addr == "example.com:443") != (test.step != "hook") {
				t.Errorf("%s %s: %v", f.Method, f.URL, f.Err)
			}
		})
	}
}

// Who ended a tunnel is named as well.
func TestR87_BlameTunnel(t *testing.T) {
	for name, test := range map[string]struct {
		client bool // it is the client that resets
		addr   bool
	}{"client": {client: true}, "origin": {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				done, flows := doneHook()
				client, far := memTunnel(t, &mitm.Proxy{Hooks: []mitm.Hook{done}})
				if test.client {
					client.reset()
				} else {
					far.reset()
				}
				f := nextFlow(t, flows)
				op, ok := errors.AsType[*mitm.OpError](f.Err)
				if !ok || op.Op != "relay" || op.Addr == "" || errors.Is(f.Err, mitm.ErrClientGone) != test.client {
					t.Errorf("flow: %v", f.Err)
				}
			})
		})
	}
}

// A handler that serves pages of the proxy's own is named when it panics, and its text is not shown.
func TestR87_BlameHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		own := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })
		p := &mitm.Proxy{Hooks: []mitm.Hook{done}, Mode: mitm.Explicit{Host: "own.test", Handler: own}, Logger: slog.New(slog.DiscardHandler)}
		client, server := memPipe()
		go p.ServeConn(context.Background(), server)
		io.WriteString(client, "GET http://own.test/ HTTP/1.1\r\nHost: own.test\r\n\r\n")
		if res, body := newPeer(t, client).response("GET"); res.StatusCode != 502 || body != "handler: panic\n" {
			t.Errorf("%s %q", res.Status, body)
		}
		if op, ok := errors.AsType[*mitm.OpError](nextFlow(t, flows).Err); !ok || op.Op != "handler" || op.Addr != "own.test:80" {
			t.Errorf("flow: %v", op)
		}
		client.Close()
		p.Close()
	})
}

// The head of a request that was refused is there to be looked at, as it came and bounded.
func TestR87_Head(t *testing.T) {
	long := "GET http://o.test/" + strings.Repeat("x", 100<<10) + " HTTP/1.1\r\nHost: o.test\r\n\r\n"
	many := "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n" + strings.Repeat("A: b\r\n", 300) + "\r\n"
	for name, test := range map[string]struct {
		sent, head string
		status     int
		stops      bool
	}{
		"no request":      {sent: "nonsense\r\n\r\nmore", head: "nonsense\r\n\r\n", status: 400},
		"field":           {sent: "GET http://o.test/ HTTP/1.1\nHost: o.test\r\nA B: c\r\n\r\nmore", head: "GET http://o.test/ HTTP/1.1\nHost: o.test\r\nA B: c\r\n\r\n", status: 400},
		"version":         {sent: "GET http://o.test/ HTTP/3.0\r\nHost: o.test\r\n\r\n", head: "GET http://o.test/ HTTP/3.0\r\nHost: o.test\r\n\r\n", status: 505},
		"no end, line":    {sent: "G=T  / HTTP/1.1\r\nHost: o", head: "G=T  / HTTP/1.1\r\nHost: o", status: 400},
		"stopped":         {sent: "GET http://o.test/ HTTP/1.1\r\nHo", head: "GET http://o.test/ HTTP/1.1\r\nHo", stops: true},
		"not in time":     {sent: "GET http://o.test/ HTTP/1.1\r\nHo", head: "GET http://o.test/ HTTP/1.1\r\nHo", status: 408},
		"too long a line": {sent: long, status: 414},
		"too many fields": {sent: many, head: many, status: 431},
		"in order":        {sent: "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n", head: "", status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					p.Hooks = append(p.Hooks, done)
					l := newMemListener()
					memAnswering(t, l, ok200)
					p.Dial = l.Dial
					client, server := memPipe()
					var running sync.WaitGroup
					running.Go(func() { p.ServeConn(context.Background(), server) })
					running.Go(func() {
						io.WriteString(client, test.sent)
						if test.stops {
							client.CloseWrite()
						}
					})
					if test.status != 0 {
						newTimelessPeer(t, client).wantStatus(test.status)
					}
					synctest.Wait()
					client.Close()
					f := nextFlow(t, flows)
					if test.status == 414 {
						if len(f.Head) == 0 || len(f.Head) > 64<<10 || !strings.HasPrefix(long, string(f.Head)) {
							t.Errorf("%d bytes of head", len(f.Head))
						}
					} else if string(f.Head) != test.head || (f.Head == nil) != (test.head == "") {
						t.Errorf("head %q, want %q", f.Head, test.head)
					}
					if test.head != "" && (f.Method != "" || f.URL != "") {
						t.Errorf("%s %s", f.Method, f.URL)
					}
					p.Close()
					l.Close()
					running.Wait()
				})
			})
		})
	}
}

// A head of more than 64 KiB is cut there; what it was parsed from is not touched by what follows.
func TestR87_HeadIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		p := &mitm.Proxy{Hooks: []mitm.Hook{done}, MaxHeaderBytes: 256 << 10}
		head := "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nA: " + strings.Repeat("x", 100<<10) + "\r\nB C: d\r\n\r\n"
		client, server := memPipe()
		go p.ServeConn(context.Background(), server)
		go io.WriteString(client, head+strings.Repeat("y", 1000))
		newTimelessPeer(t, client).wantStatus(400)
		client.Close()
		if f := nextFlow(t, flows); string(f.Head) != head[:64<<10] {
			t.Errorf("%d bytes of head", len(f.Head))
		}
		p.Close()
	})
}

// nilHook returns no RoundTripper, panicHook nothing at all.
type (
	nilHook   struct{}
	panicHook struct{}
)

func (nilHook) HookHTTP(http.RoundTripper) http.RoundTripper   { return nil }
func (panicHook) HookHTTP(http.RoundTripper) http.RoundTripper { panic("oops") }

// Check tells what Serve would return, which Serve and ListenAndServe also log.
func TestR87_Check(t *testing.T) {
	for name, test := range map[string]struct {
		p    *mitm.Proxy
		good bool
	}{
		"zero":             {new(mitm.Proxy), true},
		"hooks":            {&mitm.Proxy{Hooks: []mitm.Hook{noChange(), rejects}, Via: "me:80"}, true},
		"no hook":          {&mitm.Proxy{Hooks: []mitm.Hook{7}}, false},
		"nil hook":         {&mitm.Proxy{Hooks: []mitm.Hook{nil}}, false},
		"returns nothing":  {&mitm.Proxy{Hooks: []mitm.Hook{nilHook{}}}, false},
		"panics":           {&mitm.Proxy{Hooks: []mitm.Hook{panicHook{}}}, false},
		"message hook":     {&mitm.Proxy{Hooks: []mitm.Hook{mitm.OnMessage(nil)}}, false},
		"reverse":          {&mitm.Proxy{Mode: mitm.Reverse{}}, false},
		"explicit":         {&mitm.Proxy{Mode: mitm.Explicit{Host: "a b"}}, false},
		"transparent":      {&mitm.Proxy{Mode: mitm.Transparent{Mark: -1}}, false},
		"Via":              {&mitm.Proxy{Via: "me\r\nX: y"}, false},
		"MaxRequestLine":   {&mitm.Proxy{MaxRequestLine: 1<<31 - 1}, false},
		"MaxHeaderBytes":   {&mitm.Proxy{MaxHeaderBytes: 1<<31 - 1}, false},
		"negative is none": {&mitm.Proxy{MaxHeaderBytes: -1, MaxRequestLine: -1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			p := test.p
			p.Logger = slog.New(slog.NewTextHandler(&log, nil))
			err := p.Check()
			if (err == nil) != test.good || log.Len() > 0 {
				t.Fatalf("Check: %v; logged %q", err, log.String())
			}
			if test.good {
				p.Close()
				return
			}
			for i, served := range []error{p.Serve(newMemListener()), p.ListenAndServe("127.0.0.1:0")} {
				if served != err || strings.Count(log.String(), "level=ERROR") != 2 {
					t.Errorf("%d: %v, logged %q", i, served, log.String())
				}
			}
			p.Close()
		})
	}
}

// What ends Serve later is logged, too, but not that it was told to end.
func TestR87_ServeLogs(t *testing.T) {
	var log bytes.Buffer
	p := &mitm.Proxy{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	l := &failing{memListener: newMemListener(), errs: []error{errBlame}}
	if err := p.Serve(l); !errors.Is(err, errBlame) || strings.Count(log.String(), "level=ERROR") != 1 {
		t.Errorf("Serve: %v, logged %q", err, log.String())
	}
	log.Reset()
	if err := p.ListenAndServe("127.0.0.1:http-none"); err == nil || strings.Count(log.String(), "level=ERROR") != 1 {
		t.Errorf("ListenAndServe: %v, logged %q", err, log.String())
	}
	log.Reset()
	p.Close()
	if err := p.Serve(newMemListener()); err != mitm.ErrProxyClosed || log.Len() > 0 {
		t.Errorf("Serve: %v, logged %q", err, log.String())
	}
}

// What http.ErrAbortHandler does, as HTTPHook documents it.
func TestR87_Abort(t *testing.T) {
	abort := mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, http.ErrAbortHandler })
	t.Run("HTTP/2", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &mitm.Proxy{Hooks: []mitm.Hook{abort}}
			client, server := memPipe()
			go p.ServeConn(context.Background(), server)
			c := newH2Peer(t, client, true)
			for range 2 { // the connection goes on
				s := c.wait(c.begin(true, ":scheme", "http", ":authority", "origin.test"))
				if s.reset == nil || *s.reset != codeInternalError || s.head != nil {
					t.Errorf("%s, %v", s.outcome(), s.reset)
				}
			}
			client.Close()
			p.Close()
		})
	})
	t.Run("in a tunnel of HTTP/2", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := &mitm.Proxy{Hooks: []mitm.Hook{abort, looked}}
			near, far := memPipe()
			p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
			client, server := memPipe()
			go p.ServeConn(context.Background(), server)
			c := newH2Peer(t, client, true)
			s := c.connect("origin.test:80")
			c.data(s.id, false, "GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n")
			if c.wait(s); s.reset == nil || *s.reset != codeInternalError {
				t.Errorf("%s %q, %v", s.outcome(), s.body.String(), s.reset)
			}
			client.Close()
			far.Close()
			p.Close()
		})
	})
	for name, begin := range map[string]string{"HTTP/1": "", "CONNECT": "CONNECT origin.test:80 HTTP/1.1\r\nHost: h\r\n\r\n", "SOCKS5": noAuth + socksRequest("origin.test:80")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &mitm.Proxy{Hooks: []mitm.Hook{abort, looked}}
				near, far := memPipe()
				p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
				client, server := memPipe()
				go p.ServeConn(context.Background(), server)
				io.WriteString(client, begin+plainGet)
				if got, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) || strings.Contains(string(got), "200 OK") {
					t.Errorf("%q, %v", got, err)
				}
				far.Close()
				p.Close()
			})
		})
	}
}

// Content that ends in http.ErrAbortHandler does the same, whether or not a head was sent.
func TestR87_AbortInContent(t *testing.T) {
	for name, length := range map[string]int64{"measured": 0, "begun": 10} {
		body := func() io.ReadCloser {
			return &endingIn{strings.NewReader("abc"), func() error { return http.ErrAbortHandler }}
		}
		hook := mitm.OnRequest(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, ContentLength: length, Body: body()}, nil
		})
		for _, version := range []string{"HTTP/1", "HTTP/2"} {
			t.Run(name+" "+version, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					p := &mitm.Proxy{Hooks: []mitm.Hook{done, hook}}
					client, server := memPipe()
					go p.ServeConn(context.Background(), server)
					if version == "HTTP/1" {
						io.WriteString(client, plainGet)
						if got, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("%q, %v", got, err)
						}
					} else {
						c := newH2Peer(t, client, true)
						if s := c.wait(c.begin(true, ":scheme", "http", ":authority", "origin.test")); s.reset == nil || *s.reset != codeInternalError {
							t.Errorf("%s, %v", s.outcome(), s.reset)
						}
					}
					if op, ok := errors.AsType[*mitm.OpError](nextFlow(t, flows).Err); !ok || op.Op != "hook" || !errors.Is(op, http.ErrAbortHandler) {
						t.Errorf("flow: %v", op)
					}
					client.Close()
					p.Close()
				})
			})
		}
	}
}

// Of a malformed request in HTTP/2 the flow knows as little: net/http does not show what came.
func TestR87_HeadHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		p := &mitm.Proxy{Hooks: []mitm.Hook{done}}
		client, server := memPipe()
		go p.ServeConn(context.Background(), server)
		c := newH2Peer(t, client, true)
		c.want(c.begin(true, ":scheme", "http", ":authority", "origin.test", "a", " b"), "400")
		f := nextFlow(t, flows)
		if op, ok := errors.AsType[*mitm.OpError](f.Err); !ok || op.Op != "read request" || f.Status != 400 {
			t.Errorf("status %d, %v", f.Status, f.Err)
		}
		if f.Head != nil || f.Method != "" || f.URL != "" {
			t.Errorf("%q, %s %s", f.Head, f.Method, f.URL)
		}
		client.Close()
		p.Close()
	})
}
