package mitm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// halfTunnel is a tunnel in a bubble, of which the end named can't be half closed.
func halfTunnel(t *testing.T, p *mitm.Proxy, client, origin bool) (near, far *memConn) {
	t.Helper()
	wrap := func(nc net.Conn, cripple bool) net.Conn {
		if cripple {
			return wrapper{nc}
		}
		return nc
	}
	near, accepted := memPipe()
	dialled, far := memPipe()
	p.Dial = func(context.Context, string, string) (net.Conn, error) { return wrap(dialled, origin), nil }
	go p.ServeConn(t.Context(), wrap(accepted, client))
	io.WriteString(near, "CONNECT origin.test:7 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	b := make([]byte, len(established))
	if _, err := io.ReadFull(near, b); err != nil || string(b) != established {
		t.Fatalf("CONNECT was answered with %q, %v", b, err)
	}
	return near, far
}

// A client that has sent all gets all of the answer, although the origin can't be told that.
func TestR65_ClientEnds(t *testing.T) {
	for _, both := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			done, flows := doneHook()
			p := &mitm.Proxy{Hooks: []mitm.Hook{done}}
			client, far := halfTunnel(t, p, both, true)
			io.WriteString(client, "question")
			client.CloseWrite()
			go func() {
				io.ReadFull(far, make([]byte, len("question")))
				for i := range byte(20) {
					time.Sleep(20 * time.Second) // it thinks
					io.Copy(far, noise(i, 150_000))
				}
				far.Close()
			}()
			var want []io.Reader
			for i := range byte(20) {
				want = append(want, noise(i, 150_000))
			}
			if got, want := digest(client), digest(io.MultiReader(want...)); got != want {
				t.Errorf("the client got %s, want %s", got, want)
			}
			if f := <-flows; f.Err != nil {
				t.Errorf("flow: %v", f.Err)
			}
			p.Close()
		})
	}
}

// If no answer comes for long, the origin gets its end, and the client an error: there may have
// been more.
func TestR65_ClientEndsOriginSilent(t *testing.T) {
	for _, idle := range []time.Duration{-1, 0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			done, flows := doneHook()
			p := &mitm.Proxy{TunnelTimeout: idle, Hooks: []mitm.Hook{done}}
			client, far := halfTunnel(t, p, false, true)
			io.WriteString(client, "question")
			client.CloseWrite()
			began := time.Now()
			if got, err := io.ReadAll(far); string(got) != "question" || err != nil {
				t.Errorf("the origin got %q, %v", got, err)
			}
			if took := time.Since(began); took > time.Minute {
				t.Errorf("it took %v", took)
			}
			if _, err := io.ReadAll(client); err == nil {
				t.Error("to the client the end looks clean")
			}
			if f := <-flows; f.Err == nil {
				t.Error("the flow has no error")
			}
			far.Close()
			p.Close()
		})
	}
}

// A client that waits for the end of its origin's answer gets it, although that takes the end of the
// whole connection; what it sends before that is not lost.
func TestR65_OriginEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		p := &mitm.Proxy{Hooks: []mitm.Hook{done}}
		client, far := halfTunnel(t, p, true, false)
		io.WriteString(far, "answer")
		far.CloseWrite()
		for range 10 {
			io.WriteString(client, "more")
			time.Sleep(900 * time.Millisecond)
		}
		began := time.Now()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("the client got %q, %v", got, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
		if got, err := io.ReadAll(far); string(got) != strings.Repeat("more", 10) || err == nil {
			t.Errorf("the origin got %q, %v: it can't know that this was all", got, err)
		}
		if f := <-flows; f.Err != nil {
			t.Errorf("flow: %v", f.Err)
		}
		p.Close()
	})
}

// The answer to a request whose connection is to be closed arrives whole, and the end with it, where
// the connection can't be half closed.
func TestR65_AnswerThenClose(t *testing.T) {
	for name, test := range map[string]struct{ request, response string }{
		"asked for":       {"GET http://origin.test/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"},
		"close-delimited": {plainGet, "HTTP/1.1 200 OK\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			eachRole(t, func(c *conformance) {
				c.client.send(test.request)
				c.far.head()
				go func() {
					c.far.send(test.response)
					io.Copy(c.far.Conn, noise(1, 300000))
					c.far.Close()
				}()
				c.client.head()
				if got, want := digest(c.client.r), digest(noise(1, 300000)); got != want {
					c.t.Errorf("got %s, want %s", got, want)
				}
				if f := nextFlow(c.t, c.flows); f.Err != nil {
					c.t.Errorf("flow: %v", f.Err)
				}
			})
		})
	}
}

// The connection of a 101 by another transport can be half closed if that transport's can.
func TestR65_TransportUpgrade(t *testing.T) {
	for name, hook := range map[string]mitm.Hook{"plain": noChange(), "wrapped": wrapUpgradesKeeping()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := origin(t, func(c *peer) {
				c.head()
				c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				got, _ := c.rest()
				c.send("you said " + got)
			})
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			c := dial(t, start(t, &mitm.Proxy{Transport: transport, Hooks: []mitm.Hook{hook}}))
			c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			c.head()
			c.send("hello")
			c.closeWrite()
			if got, err := c.rest(); got != "you said hello" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// wrapUpgradesKeeping wraps what a 101 leads to, CloseWrite included.
func wrapUpgradesKeeping() mitm.Hook {
	type halfCloser interface {
		io.ReadWriteCloser
		CloseWrite() error
	}
	return mitm.OnResponse(func(res *http.Response) error {
		if body, ok := res.Body.(halfCloser); ok {
			res.Body = struct{ halfCloser }{body}
		}
		return nil
	})
}

// A listener without an address is no reason to panic.
func TestR64_ListenerWithoutAddr(t *testing.T) {
	t.Parallel()
	l := addrlessListener{newMemListener()}
	p := new(mitm.Proxy)
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	client, _ := l.Dial(t.Context(), "tcp", "")
	c := newPeer(t, client)
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	c.wantStatus(400)
	l.memListener.Close()
	var op *mitm.OpError
	if err := <-served; !errors.As(err, &op) || op.Op != "accept" {
		t.Errorf("Serve returned %v", err)
	}
	p.Close()
}

type addrlessListener struct{ *memListener }

func (addrlessListener) Addr() net.Addr { return nil }
