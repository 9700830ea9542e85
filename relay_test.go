package mitm_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// noise is random bytes that can be had again.
func noise(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// digest reads r to its end; the end is part of the result.
func digest(r io.Reader) string {
	h := sha256.New()
	n, err := io.Copy(h, r)
	return fmt.Sprintf("%x of %d bytes, %v", h.Sum(nil), n, err)
}

// exchangeNoise sends n bytes while it receives, and returns what it received.
func exchangeNoise(c *peer, seed byte, n int64) string {
	c.SetDeadline(time.Now().Add(12 * patience))
	var sender sync.WaitGroup
	sender.Go(func() {
		if _, err := io.Copy(c.Conn, noise(seed, n)); err != nil {
			c.t.Errorf("send: %v", err)
		}
		c.closeWrite()
	})
	defer sender.Wait()
	return digest(c.r)
}

// bulk is how much goes through a tunnel in all.
func bulk() int64 {
	if testing.Short() || raceEnabled() {
		return 256 << 20
	}
	return 1 << 30
}

func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// A gibibyte in both directions at once arrives as it was sent.
func TestTunnelBulk(t *testing.T) {
	t.Parallel()
	n := bulk() / 2
	arrived := make(chan string, 1)
	addr := origin(t, func(c *peer) { arrived <- exchangeNoise(c, 1, n) })
	done, flows := doneHook()
	c := connect(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{done}}), addr, "")
	if got, want := exchangeNoise(c, 2, n), digest(noise(1, n)); got != want {
		t.Errorf("the client got %s, want %s", got, want)
	}
	if got, want := <-arrived, digest(noise(2, n)); got != want {
		t.Errorf("the origin got %s, want %s", got, want)
	}
	if f := <-flows; f.Sent() != n || f.Received() != n || f.Err != nil || !f.Tunnel || f.Status != 200 {
		t.Errorf("flow: %d up, %d down, tunnel %v, status %d, %v", f.Sent(), f.Received(), f.Tunnel, f.Status, f.Err)
	}
}

// Bulk data stays in the kernel, in tunnels and in content of known length: what the proxy
// reads and writes itself is a small part of what passes.
func TestSplice(t *testing.T) {
	skipUnless(t, runtime.GOOS == "linux", "splice(2) is Linux's")
	const n = 64 << 20
	tunnel := func(c *peer) { io.Copy(c.Conn, noise(1, n)) }
	response := func(c *peer) {
		c.head()
		c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n))
		io.Copy(c.Conn, noise(1, n))
	}
	for name, test := range map[string]struct {
		serve   func(*peer)
		request func(c *peer, addr string)
	}{
		"tunnel":   {tunnel, func(c *peer, addr string) { c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: h\r\n\r\n") }},
		"response": {response, func(c *peer, addr string) { c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n\r\n") }},
	} {
		t.Run(name, func(t *testing.T) {
			process, addr := startProcess(t), origin(t, test.serve)
			before := process.stats()
			c := dial(t, process.addr)
			test.request(c, addr)
			c.head()
			if got, want := digest(io.LimitReader(c.r, n)), digest(noise(1, n)); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			copied := process.stats().Copied - before.Copied
			if t.Logf("copied %d of %d bytes", copied, n); copied > n/4 {
				t.Error("too much was copied")
			}
		})
	}
}

// An idle tunnel takes its two sockets and no pipe.
func TestIdleTunnels(t *testing.T) {
	const tunnels = 1000
	process, addr := startProcess(t), echo(t)
	connect(t, process.addr, addr, "").Close()
	before := process.settled(0, processStats{})
	clients := make([]*peer, tunnels)
	for i := range clients {
		clients[i] = connect(t, process.addr, addr, "x")
		clients[i].read(1)
	}
	after := process.stats()
	if sockets, pipes := after.Sockets-before.Sockets, after.Pipes-before.Pipes; sockets != 2*tunnels || pipes != 0 {
		t.Errorf("%d tunnels take %d sockets and %d pipes", tunnels, sockets, pipes)
	}
	t.Logf("per tunnel: %d bytes of heap and stacks, %d bytes resident (with the race detector: %v)",
		(after.Heap-before.Heap)/tunnels, (after.Resident-before.Resident)/tunnels, raceEnabled())
	for _, c := range clients {
		c.Close()
	}
	process.settled(before.Sockets, before)
}

// settled waits until the process has no more than the listener, or than before.
func (p *proxyProcess) settled(sockets int, before processStats) (s processStats) {
	p.t.Helper()
	want := max(sockets, 1)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if s = p.stats(); s.Sockets <= want && (sockets == 0 || s.Pipes <= before.Pipes) {
			return s
		}
	}
	p.t.Errorf("%d sockets and %d pipes are left", s.Sockets, s.Pipes)
	return s
}

// A reset passes on as a reset: cut data must not look complete.
func TestTunnelReset(t *testing.T) {
	t.Parallel()
	reset := func(c *peer) {
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	check := func(t *testing.T, c *peer, f *mitm.Flow) {
		if got, err := c.rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %q, %v; want a reset", got, err)
		}
		if !errors.Is(f.Err, syscall.ECONNRESET) {
			t.Errorf("flow: %v", f.Err)
		}
	}
	accepted := make(chan *peer)
	ended := make(chan bool)
	addr := origin(t, func(c *peer) { accepted <- c; <-ended })
	defer close(ended)
	for _, byOrigin := range []bool{true, false} {
		done, flows := doneHook()
		c := connect(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{done}}), addr, "x")
		o := <-accepted
		o.read(1)
		if byOrigin {
			c, o = o, c
		}
		reset(c)
		check(t, o, <-flows)
	}
}

// memTunnel is a tunnel through p between two connections in memory.
func memTunnel(t *testing.T, p *mitm.Proxy) (client, far *memConn) {
	client, server := memPipe()
	near, far := memPipe()
	p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
	go p.ServeConn(t.Context(), server)
	io.WriteString(client, "CONNECT origin.test:7 HTTP/1.1\r\nHost: origin.test\r\n\r\n")
	b := make([]byte, len(established))
	if _, err := io.ReadFull(client, b); err != nil || string(b) != established {
		t.Fatalf("CONNECT was answered with %q, %v", b, err)
	}
	return client, far
}

// A tunnel ends, by a reset of both sides, when both directions were silent for so long.
// Bytes in one direction keep it open.
func TestTunnelIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done, flows := doneHook()
		p := &mitm.Proxy{TunnelTimeout: time.Minute, Hooks: []mitm.Hook{done}}
		client, far := memTunnel(t, p)
		for range 10 {
			time.Sleep(59 * time.Second)
			io.WriteString(far, "x")
		}
		last := time.Now()
		f := <-flows
		if took := time.Since(last); took != time.Minute {
			t.Errorf("closed after %v", took)
		}
		if f.Received() != 10 || f.Err == nil || !strings.Contains(f.Err.Error(), "idle") {
			t.Errorf("flow: %d bytes, %v", f.Received(), f.Err)
		}
		for _, c := range []*memConn{client, far} {
			if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("ended with %v", err)
			}
		}
		p.Close()
	})
}

// A receiver may be slow, though it takes longer than the timeout for what is being written. One
// that takes nothing ends the tunnel.
func TestTunnelSlowReceiver(t *testing.T) {
	skipUnless(t, runtime.GOOS == "linux", "what a peer acknowledged is known on Linux only")
	t.Parallel()
	const fast, slow, timeout = 16 << 20, 64 << 10, time.Second
	addr := origin(t, func(c *peer) {
		c.SetDeadline(time.Now().Add(12 * patience))
		io.Copy(c.Conn, noise(1, 2*fast))
	})
	for _, stops := range []bool{false, true} {
		t.Run(fmt.Sprint("stops=", stops), func(t *testing.T) {
			t.Parallel()
			done, flows := doneHook()
			c := connect(t, start(t, &mitm.Proxy{TunnelTimeout: timeout, Hooks: []mitm.Hook{done}}), addr, "")
			c.Conn.(*net.TCPConn).SetReadBuffer(4 * slow)
			c.SetDeadline(time.Now().Add(12 * patience))
			want := noise(1, 2*fast)
			if got, want := digest(io.LimitReader(c.r, fast)), digest(io.LimitReader(want, fast)); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
			for end := time.Now().Add(4 * timeout); !stops && time.Now().Before(end); {
				time.Sleep(timeout / 10)
				if got, want := digest(io.LimitReader(c.r, slow)), digest(io.LimitReader(want, slow)); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
			if f := nextFlow(t, flows); f.Err == nil || !strings.Contains(f.Err.Error(), "idle") {
				t.Errorf("flow: %v", f.Err)
			}
		})
	}
}

func TestTunnelNoIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &mitm.Proxy{TunnelTimeout: -1}
		client, far := memTunnel(t, p)
		time.Sleep(1000 * time.Hour)
		io.WriteString(client, "still there")
		synctest.Wait()
		if got := far.unread(); got != "still there" {
			t.Errorf("the origin got %q", got)
		}
		p.Close()
	})
}

// The counts of a flow are right while its tunnel runs.
func TestTunnelLiveCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		named := make(chan *mitm.Flow, 1)
		p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnConn(func(ctx context.Context, _ *mitm.Conn) (mitm.Action, error) {
			named <- mitm.FlowFromContext(ctx)
			return mitm.Default, nil
		})}}
		client, far := memTunnel(t, p)
		f := <-named
		for i := range int64(3) {
			io.WriteString(client, "12345")
			io.WriteString(far, "12")
			synctest.Wait()
			if up, down := f.Sent(), f.Received(); up != 5*(i+1) || down != 2*(i+1) {
				t.Errorf("%d up, %d down after %d rounds", up, down, i+1)
			}
		}
		p.Close()
	})
}

// What the receiver does not take is not taken from the sender either.
func TestTunnelBackpressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &mitm.Proxy{TunnelTimeout: -1}
		client, far := memTunnel(t, p)
		const most = 3 * memBuffer // what two connections and a relay may hold
		var taken atomic.Int64
		var writer sync.WaitGroup
		writer.Go(func() {
			for range 10 {
				n, _ := far.Write(make([]byte, most/2))
				taken.Add(int64(n))
			}
		})
		synctest.Wait()
		if n := taken.Load(); n > most {
			t.Errorf("%d bytes are on their way", n)
		}
		io.ReadFull(client, make([]byte, 5*most))
		writer.Wait()
		p.Close()
	})
}
