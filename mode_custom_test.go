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

	"example.com/mitm"
)

// serveMem serves a connection in memory and returns its other end.
func serveMem(t *testing.T, p *mitm.Proxy) *peer {
	client, server := memPipe()
	var served sync.WaitGroup
	served.Go(func() { p.ServeConn(context.Background(), server) })
	t.Cleanup(func() {
		client.Close()
		p.Close()
		served.Wait()
	})
	return newPeer(t, client)
}

// dialAlways connects to addr whatever it is asked for.
func dialAlways(addr string) mitm.DialFunc {
	var d net.Dialer
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return d.DialContext(ctx, network, addr)
	}
}

// lineMode is a protocol of its own: "TO host:port\n", answered with "OK\n" or "NO\n".
func lineMode(_ context.Context, c *mitm.Conn) (mitm.Destination, error) {
	first, err := c.Peek(3)
	if err != nil || string(first[:3]) != "TO " {
		return mitm.Destination{}, errors.New("this is not the line protocol")
	}
	var line []byte
	for b := make([]byte, 1); b[0] != '\n'; line = append(line, b[0]) {
		if _, err := c.Read(b); err != nil {
			return mitm.Destination{}, err
		}
	}
	reply := func(err error) error {
		answer := "OK\n"
		if err != nil {
			answer = "NO\n"
		}
		_, err = io.WriteString(c, answer)
		return err
	}
	return mitm.Destination{Addr: strings.TrimSpace(string(line[3:])), Reply: reply}, nil
}

// What a mode leaves unread is for the destination, also what came in the same packet.
func TestModeTalks(t *testing.T) {
	t.Parallel()
	echoing := echo(t)
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = modeFunc(lineMode)
		proxy := start(t, p)
		c := dial(t, proxy)
		c.send("TO " + echoing + "\n\x00binary")
		if got := c.read(10); got != "OK\n\x00binary" {
			t.Errorf("got %q", got)
		}
		c = dial(t, proxy)
		c.send("TO " + addr + "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := c.read(3 + len(ok200)); got != "OK\n"+ok200 {
			t.Errorf("got %q", got)
		}
		if got := <-heads; got != "GET / HTTP/1.1\r\nHost: h\r\n\r\n" {
			t.Errorf("the origin got %q", got)
		}
	})
}

// Where a mode can reply it does, instead of a reset.
func TestModeReplies(t *testing.T) {
	t.Parallel()
	addr := unreachable(t)
	for name, set := range map[string]func(p *mitm.Proxy){
		"dial failed": func(*mitm.Proxy) {},
		"rejected":    func(p *mitm.Proxy) { p.Hooks = append(p.Hooks, rejects) },
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				set(p)
				p.Mode = modeFunc(lineMode)
				c := dial(t, start(t, p))
				c.send("TO " + addr + "\n")
				if got, err := c.rest(); got != "NO\n" || err != nil {
					t.Errorf("got %q, %v", got, err)
				}
			})
		})
	}
}

// A reply that fails ends the connection and the one to the origin.
func TestModeReplyFails(t *testing.T) {
	t.Parallel()
	ended := make(chan string, 2)
	addr := origin(t, func(c *peer) {
		all, _ := c.rest()
		ended <- all
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		failure := errors.New("no reply")
		calls := make(chan error, 4)
		p.Mode = fixed(mitm.Destination{Addr: addr, Reply: func(err error) error { calls <- err; return failure }})
		c := dial(t, start(t, p))
		c.closed()
		if got := <-ended; got != "" {
			t.Errorf("the origin got %q", got)
		}
		if f := <-flows; !errors.Is(f.Err, failure) {
			t.Errorf("flow: %v", f.Err)
		}
		if err := <-calls; err != nil || len(calls) > 0 {
			t.Errorf("Reply was called with %v and then %d times", err, len(calls))
		}
	})
}

// Reply is not for HTTP, which has answers of its own.
func TestModeReplyHTTP(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = fixed(mitm.Destination{Addr: addr, Protocol: mitm.HTTP1, Reply: func(error) error {
			t.Error("Reply was called")
			return nil
		}})
		c := dial(t, start(t, p))
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(200)
	})
}

func TestModeFails(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]modeFunc{
		"error": func(context.Context, *mitm.Conn) (mitm.Destination, error) {
			return mitm.Destination{}, errors.New("no idea")
		},
		"panic": func(context.Context, *mitm.Conn) (mitm.Destination, error) { panic("no idea") },
	} {
		t.Run(name, func(t *testing.T) {
			log := new(records)
			p := &mitm.Proxy{Mode: mode, Logger: log.logger()}
			if got, err := serveMem(t, p).rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %q, %v; want a reset", got, err)
			}
			if name == "panic" && log.count() != 1 {
				t.Errorf("%d log records, want one", log.count())
			}
		})
	}
}
