package mitm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"example.com/mitm"
)

// doneTest is a connection and what HookDone is told of it.
type doneTest struct {
	name string
	// talk gets the address of an origin.
	talk func(c *peer, addr string)

	status         int
	op             string // "": no error
	is             error
	method, target string
	tunnel         bool
	up, down       int64
}

const chunkedABC = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"

var doneTests = []doneTest{
	{name: "exchange", talk: one("POST http://ADDR/p?q HTTP/1.1\r\nHost: x\r\n" + chunkedABC),
		status: 200, method: "POST", target: "http://ADDR/p?q", up: 3, down: 2},
	{name: "parse failure", talk: one("nonsense\r\n\r\n"), status: 400, op: "read request"},
	{name: "bad field", talk: one("GET http://ADDR/ HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n"), status: 400, op: "read request"},
	{name: "origin-form", talk: one("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), status: 400, op: "read request",
		method: "GET", target: "http://x/"},
	{name: "bad chunk", talk: one("POST http://ADDR/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnone\r\n\r\n"),
		status: 400, op: "read request", method: "POST", target: "http://ADDR/"},
	{name: "refused CONNECT", talk: one("CONNECT ADDR.invalid:1 HTTP/1.1\r\nHost: x\r\n\r\n"), status: 400, op: "read request"},
	{name: "unreachable CONNECT", talk: one("CONNECT unreachable.test:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
		status: 502, op: "dial", method: "CONNECT", target: "unreachable.test:1"},
	{name: "unreachable", talk: one("GET http://unreachable.test/ HTTP/1.1\r\nHost: x\r\n\r\n"),
		status: 502, op: "dial", method: "GET", target: "http://unreachable.test/"},
	{name: "origin cut", talk: one("GET http://ADDR/cut HTTP/1.1\r\nHost: x\r\n\r\n"),
		status: 200, op: "read response", is: io.ErrUnexpectedEOF, method: "GET", target: "http://ADDR/cut", down: 5},
	{name: "origin silent", talk: one("GET http://ADDR/silent HTTP/1.1\r\nHost: x\r\n\r\n"),
		status: 502, op: "read response", method: "GET", target: "http://ADDR/silent"},
	{name: "client gone", talk: func(c *peer, addr string) {
		c.send("GET http://" + addr + "/wait HTTP/1.1\r\nHost: x\r\n\r\n")
		c.Close()
	}, op: "read response", is: mitm.ErrClientGone, method: "GET", target: "http://ADDR/wait"},
	{name: "client stops", talk: func(c *peer, addr string) {
		c.send("POST http://" + addr + "/read HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc")
		c.closeWrite()
		c.rest()
	}, status: 400, op: "read request", is: io.ErrUnexpectedEOF, method: "POST", target: "http://ADDR/read", up: 3},
	{name: "tunnel", talk: func(c *peer, addr string) {
		c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: x\r\n\r\n")
		c.head()
		c.send("GET / HTTP/1.1\r\n\r\n")
		c.head()
		c.read(2)
		c.Close()
	}, status: 200, method: "CONNECT", target: "ADDR", tunnel: true, up: 18, down: int64(len(ok200))},
	{name: "upgrade", talk: func(c *peer, addr string) {
		c.send("GET http://" + addr + "/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		c.head()
		c.send("ping")
		c.read(4)
		c.Close()
	}, status: 101, method: "GET", target: "http://ADDR/upgrade", tunnel: true, up: 4, down: 4},
}

// one sends a request and waits for the end of the answer.
func one(request string) func(c *peer, addr string) {
	return func(c *peer, addr string) {
		c.send(strings.ReplaceAll(request, "ADDR", addr))
		res, err := http.ReadResponse(c.r, nil)
		if err == nil {
			io.Copy(io.Discard, res.Body)
		}
		c.Close()
	}
}

// doneOrigin does what the path of a request says.
func doneOrigin(c *peer) {
	req, err := http.ReadRequest(c.r)
	if err != nil {
		return
	}
	switch req.URL.Path {
	case "/cut":
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
	case "/silent":
	case "/wait":
		c.rest()
	case "/read":
		io.Copy(io.Discard, req.Body)
	case "/upgrade":
		c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c, c.r)
	default:
		io.Copy(io.Discard, req.Body)
		c.send(ok200)
		c.rest()
	}
}

func TestDoneHook(t *testing.T) {
	addr := origin(t, doneOrigin)
	for _, tt := range doneTests {
		t.Run(tt.name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				p.Dial = onlyLoopback
				proxy := start(t, p)
				tt.talk(dial(t, proxy), addr)
				f := nextFlow(t, flows)
				p.Close()
				if len(flows) > 0 {
					t.Errorf("told twice: %+v", <-flows)
				}
				tt.check(t, f, addr)
			})
		})
	}
}

var errUnreachable = errors.New("unreachable")

func onlyLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	if !strings.HasPrefix(addr, "127.0.0.1:") {
		return nil, errUnreachable
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (tt *doneTest) check(t *testing.T, f *mitm.Flow, addr string) {
	t.Helper()
	if f.ID != 1 || f.Status != tt.status || f.Method != tt.method || f.Tunnel != tt.tunnel ||
		f.URL != strings.ReplaceAll(tt.target, "ADDR", addr) {
		t.Errorf("flow %d: status %d, %s %s, tunnel %v", f.ID, f.Status, f.Method, f.URL, f.Tunnel)
	}
	if f.Sent() != tt.up || f.Received() != tt.down {
		t.Errorf("%d bytes sent, %d received; want %d, %d", f.Sent(), f.Received(), tt.up, tt.down)
	}
	if f.Start.IsZero() || f.End.Before(f.Start) || f.Answered.IsZero() != (tt.status == 0) ||
		!f.Answered.IsZero() && (f.Answered.Before(f.Start) || f.End.Before(f.Answered)) {
		t.Errorf("started %v, answered %v, ended %v", f.Start, f.Answered, f.End)
	}
	op := new(mitm.OpError)
	if errors.As(f.Err, &op); op.Op != tt.op || (f.Err == nil) != (tt.op == "") || tt.is != nil && !errors.Is(f.Err, tt.is) {
		t.Errorf("error %v", f.Err)
	}
}

// Flows are numbered, and those of one connection come one after the other.
func TestDoneHookCounts(t *testing.T) {
	addr, _ := answering(t, ok200)
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{done}}))
	c.send(strings.Repeat(getRequest(addr), 5)) // pipelined
	for id := range uint64(5) {
		c.wantStatus(200)
		if f := nextFlow(t, flows); f.ID != id+1 {
			t.Errorf("flow %d, want %d", f.ID, id+1)
		}
	}
}

// Flow has what hooks made of the messages.
func TestDoneHookSeesMessages(t *testing.T) {
	addr, _ := answering(t, ok200)
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{done,
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			req = req.Clone(req.Context())
			req.Header.Set("New", "1")
			res, err := next.RoundTrip(req)
			if err == nil {
				res.StatusCode = 201
			}
			return res, err
		}),
	}}))
	c.send(getRequest(addr))
	c.wantStatus(201)
	f := nextFlow(t, flows)
	if f.Request.Header.Get("New") != "1" || f.Response.StatusCode != 201 || f.Status != 201 || f.Response.Request != f.Request {
		t.Errorf("request %v, response %v", f.Request, f.Response)
	}
}

// Another transport takes the engine's place.
func TestTransport(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Got", req.Header.Get("X-Hook"))
		b, _ := io.ReadAll(req.Body)
		w.Write(b)
		w.Header().Set("X-Sum", "1")
	}))
	defer server.Close()
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	for name, rt := range map[string]http.RoundTripper{
		"http.Transport": transport,
		"func":           roundTripper(transport.RoundTrip),
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				p.Dial, p.Transport = noDial(t), rt
				p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
					req.Header.Set("X-Hook", "seen")
					return nil, nil
				}))
				c := dial(t, start(t, p))
				for _, size := range []int{0, 5, 100 << 10} {
					content := strings.Repeat("z", size)
					c.send("POST " + server.URL + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: " + strconv.Itoa(size) + "\r\n\r\n" + content)
					res, body := c.response("POST")
					if body != content || res.Header.Get("X-Got") != "seen" || res.Trailer.Get("X-Sum") != "1" {
						t.Errorf("size %d: got %d bytes, %v", size, len(body), res)
					}
				}
			})
		})
	}
}

// An early answer by a transport that still reads the content costs the connection, and
// nobody else reads what it wants.
func TestTransportAnswersEarly(t *testing.T) {
	read := make(chan string, 1)
	p := &mitm.Proxy{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
		go func() {
			b, _ := io.ReadAll(req.Body)
			req.Body.Close()
			read <- string(b)
		}()
		return text(200, "early"), nil
	})}
	c := dial(t, start(t, p))
	c.send("POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab")
	res, _ := c.response("POST")
	if !res.Close {
		t.Error("the connection is kept")
	}
	c.send("cd")
	c.closeWrite()
	c.closed()
	if got := <-read; !strings.HasPrefix("abcd", got) {
		t.Errorf("transport read %q", got)
	}
}

func TestTransportUpgrades(t *testing.T) {
	addr := origin(t, doneOrigin)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	done, flows := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Transport: transport, Dial: noDial(t), Hooks: []mitm.Hook{done}}))
	c.send("GET http://" + addr + "/upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 101 ") || !strings.Contains(head, "Upgrade: echo\r\n") {
		t.Errorf("got %q", head)
	}
	for range 3 {
		c.send("ping")
		if got := c.read(4); got != "ping" {
			t.Errorf("got %q", got)
		}
	}
	c.Close()
	if f := nextFlow(t, flows); !f.Tunnel || f.Status != 101 || f.Sent() != 12 || f.Received() != 12 {
		t.Errorf("flow %+v", f)
	}
}
