package mitm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

func TestServeAfterClose(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(p *mitm.Proxy) error{
		"Close":    (*mitm.Proxy).Close,
		"Shutdown": func(p *mitm.Proxy) error { return p.Shutdown(t.Context()) },
	} {
		p := new(mitm.Proxy)
		for range 2 {
			if err := end(p); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		l := newMemListener()
		if err := p.Serve(l); err != mitm.ErrProxyClosed {
			t.Errorf("%s: Serve returned %v", name, err)
		}
		if _, err := l.Dial(t.Context(), "tcp", ""); err == nil {
			t.Errorf("%s: the listener is open", name)
		}
		if err := p.ListenAndServe("127.0.0.1:0"); err != mitm.ErrProxyClosed {
			t.Errorf("%s: ListenAndServe returned %v", name, err)
		}
		client, server := memPipe()
		if err := p.ServeConn(t.Context(), server); err != mitm.ErrProxyClosed {
			t.Errorf("%s: ServeConn returned %v", name, err)
		}
		newPeer(t, client).closed()
	}
}

// Shutdown closes what is idle at once, lets an exchange and a tunnel come to their ends,
// and announces the end of connections that it lets answer.
func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		got, proceed := make(chan string, 1), make(chan bool)
		addr := origin(t, func(c *peer) {
			got <- c.head()
			<-proceed
			c.send(ok200)
		})
		quick, _ := answering(t, ok200)
		proxy := start(t, p)
		idle, fresh, busy := dial(t, proxy), dial(t, proxy), dial(t, proxy)
		idle.send("GET http://" + quick + "/ HTTP/1.1\r\nHost: h\r\n\r\n")
		idle.wantStatus(200)
		busy.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n\r\n")
		<-got
		tunnel := connect(t, proxy, echo(t), "x")
		tunnel.read(1)

		shut := make(chan error, 1)
		go func() { shut <- p.Shutdown(context.Background()) }()
		idle.closed()
		fresh.closed()
		tunnel.send("still there")
		if got := tunnel.read(11); got != "still there" {
			t.Errorf("tunnel: %q", got)
		}
		close(proceed)
		res, body := busy.response("GET")
		if res.StatusCode != 200 || body != "ok" || !res.Close {
			t.Errorf("%s %q, close %v", res.Status, body, res.Close)
		}
		busy.closed()
		select {
		case err := <-shut:
			t.Errorf("Shutdown did not wait for the tunnel: %v", err)
		default:
		}
		tunnel.closeWrite()
		tunnel.closed()
		if err := <-shut; err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// When its context ends Shutdown cuts what is left, visibly.
func TestShutdownContext(t *testing.T) {
	t.Parallel()
	p := new(mitm.Proxy)
	tunnel := connect(t, start(t, p), echo(t), "x")
	tunnel.read(1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Shutdown(ctx); err != context.Canceled {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := tunnel.rest(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the tunnel ended with %v", err)
	}
}

// inState brings a client connection into a state in which Close, or the end of a context, finds it.
var inState = map[string]struct {
	sent    string // by the client
	got     string // by the client, before the end
	answer  string // by the origin
	dials   bool   // the dial never ends
	mode    mitm.Mode
	cleanly bool // the connection was idle, so that its end is no reset
}{
	"fresh":             {cleanly: true},
	"kept alive":        {sent: plainGet, answer: ok200, got: ok200, cleanly: true},
	"head":              {sent: "GET http://origin.test/ HTTP/1.1\r\nHo"},
	"dialling":          {sent: plainGet, dials: true},
	"CONNECT, dialling": {sent: "CONNECT origin.test:80 HTTP/1.1\r\nHost: h\r\n\r\n", dials: true},
	"waiting":           {sent: plainGet},
	"uploading":         {sent: strings.Replace(plainGet, "GET", "PUT", 1)[:len(plainGet)-2] + "Content-Length: 9\r\n\r\nx"},
	"downloading":       {sent: plainGet, answer: ok200[:len(ok200)-1], got: ok200[:len(ok200)-1]},
	"after an interim":  {sent: plainGet, answer: "HTTP/1.1 103 Early Hints\r\n\r\n", got: "HTTP/1.1 103 Early Hints\r\n\r\n"},
	"tunnel":            {sent: "CONNECT origin.test:80 HTTP/1.1\r\nHost: h\r\n\r\n", answer: "x", got: established + "x"},
	"mode": {cleanly: true, mode: modeFunc(func(_ context.Context, c *mitm.Conn) (d mitm.Destination, err error) {
		_, err = c.Peek(1)
		return d, err
	})},
	"sniffing":           {mode: fixed(mitm.Destination{Addr: "origin.test:7"})},
	"sniffing, begun":    {mode: fixed(mitm.Destination{Addr: "origin.test:7"}), sent: "GE"},
	"sniffing, dialling": {mode: fixed(mitm.Destination{Addr: "origin.test:7"}), dials: true},
	"sniffed":            {mode: fixed(mitm.Destination{Addr: "origin.test:7"}), sent: "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
}

const plainGet = "GET http://origin.test/ HTTP/1.1\r\nHost: h\r\n\r\n"

// Close cuts what is there, whatever it is doing, and leaves no goroutine: synctest fails
// a test that does. So does the end of ServeConn's context.
func TestCloseCuts(t *testing.T) {
	for name, state := range inState {
		for _, byContext := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					synctest.Test(t, func(t *testing.T) {
						client, server := memPipe()
						near, far := memPipe()
						dialled := false
						p.Mode = state.mode
						p.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
							if state.dials {
								<-ctx.Done()
								return nil, ctx.Err()
							}
							dialled = true
							io.WriteString(far, state.answer)
							return near, nil
						}
						ctx, cancel := context.WithCancel(t.Context())
						defer cancel()
						var served sync.WaitGroup
						served.Go(func() {
							if err := p.ServeConn(ctx, server); err != nil {
								t.Errorf("ServeConn: %v", err)
							}
						})
						io.WriteString(client, state.sent)
						synctest.Wait()
						if byContext {
							cancel()
						} else {
							p.Close()
						}
						synctest.Wait()
						got, err := io.ReadAll(client)
						if string(got) != state.got || state.cleanly != (err == nil) {
							t.Errorf("the client got %q, %v; want %q, cleanly %v", got, err, state.got, state.cleanly)
						}
						served.Wait()
						p.Close()
						if _, err := far.Write([]byte("x")); dialled && err == nil {
							t.Error("the connection to the origin is open")
						}
					})
				})
			})
		}
	}
}

// ServeConn returns when the client is through, with every goroutine ended.
func TestServeConn(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			l := newMemListener()
			heads := memAnswering(t, l, ok200)
			p.Dial = l.Dial
			client, server := memPipe()
			served := make(chan error)
			go func() { served <- p.ServeConn(t.Context(), server) }()
			c := newPeer(t, client)
			for range 3 {
				c.send(plainGet)
				c.wantStatus(200)
				<-heads
			}
			client.Close()
			if err := <-served; err != nil {
				t.Errorf("ServeConn: %v", err)
			}
			p.Close()
			l.Close()
		})
	})
}

// net.Pipe has neither half-close nor SetLinger nor a buffer.
func TestServeConnPipe(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	echoing := echo(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, request := range []string{"GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n", "CONNECT " + echoing + " HTTP/1.1\r\nHost: h\r\n"} {
			client, server := net.Pipe()
			served := make(chan error, 1)
			go func() { served <- p.ServeConn(t.Context(), server) }()
			c := newPeer(t, client)
			c.send(request + "\r\n")
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Errorf("got %q", head)
			}
			client.Close()
			if err := <-served; err != nil {
				t.Errorf("ServeConn: %v", err)
			}
		}
		p.Close()
	})
}

// A closed proxy is closed for connections that were accepted meanwhile, too.
func TestShutdownWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, l := new(mitm.Proxy), newMemListener()
		served := make(chan error)
		go func() { served <- p.Serve(l) }()
		var clients []net.Conn
		for range 100 {
			c, err := l.Dial(t.Context(), "tcp", "")
			if err != nil {
				t.Fatal(err)
			}
			clients = append(clients, c)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve: %v", err)
		}
		for _, c := range clients {
			newPeer(t, c).closed()
		}
	})
}
