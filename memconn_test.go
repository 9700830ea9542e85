package mitm_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// memBuffer is how many unread bytes a memConn holds before its peer's writes block.
const memBuffer = 64 << 10

// A memConn is one end of a TCP-like connection in memory. It blocks only in
// sync.Cond, so that it works inside a synctest bubble.
type memConn struct {
	mu          *sync.Mutex // shared by both ends, guards everything below
	changed     *sync.Cond
	peer        *memConn
	addr        net.Addr
	in          bytes.Buffer // received and not yet read
	writing     bool         // a Write is in progress; others wait for it
	writeClosed bool
	closed      bool
	isReset     bool
	noLinger    bool
	rd, wd      memDeadline
}

type memDeadline struct {
	expired bool
	timer   *time.Timer
}

// memPipe returns the two ends of a new connection.
func memPipe() (a, b *memConn) { return memPipeAddr(memAddr(), memAddr()) }

func memPipeAddr(aAddr, bAddr net.Addr) (a, b *memConn) {
	mu := new(sync.Mutex)
	changed := sync.NewCond(mu)
	a = &memConn{mu: mu, changed: changed, addr: aAddr}
	b = &memConn{mu: mu, changed: changed, addr: bAddr}
	a.peer, b.peer = b, a
	return a, b
}

var memPort atomic.Uint32

// memAddr returns an address of RFC 5737, section 3, whose port is not in use.
func memAddr() net.Addr {
	port := uint16(memPort.Add(1)%0xffff) + 1
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port))
}

func (c *memConn) LocalAddr() net.Addr  { return c.addr }
func (c *memConn) RemoteAddr() net.Addr { return c.peer.addr }

func (c *memConn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.addr, Addr: c.peer.addr, Err: err}
}

// Read returns what is buffered. What arrived before a reset can still be read, as on Linux.
func (c *memConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.rd.expired:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.in.Len() > 0:
			c.changed.Broadcast()
			return c.in.Read(p)
		case c.isReset:
			return 0, c.opError("read", syscall.ECONNRESET)
		case c.peer.writeClosed:
			return 0, io.EOF
		}
		c.changed.Wait()
	}
}

func (c *memConn) Write(p []byte) (n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.writing {
		c.changed.Wait()
	}
	c.writing = true
	defer func() {
		c.writing = false
		c.changed.Broadcast()
	}()
	for {
		if err := c.writeError(); err != nil {
			return n, c.opError("write", err)
		}
		if n == len(p) {
			return n, nil
		}
		if room := memBuffer - c.peer.in.Len(); room > 0 {
			k, _ := c.peer.in.Write(p[n:min(len(p), n+room)])
			n += k
			c.changed.Broadcast()
			continue
		}
		c.changed.Wait()
	}
}

func (c *memConn) writeError() error {
	switch {
	case c.closed:
		return net.ErrClosed
	case c.wd.expired:
		return os.ErrDeadlineExceeded
	case c.isReset:
		return syscall.ECONNRESET
	case c.writeClosed, c.peer.closed:
		return syscall.EPIPE
	}
	return nil
}

// CloseWrite lets the peer read io.EOF after what was written; reading goes on.
func (c *memConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.writeClosed = true
	c.changed.Broadcast()
	return nil
}

// Close ends both directions: with a FIN, or with a reset if unread data is lost or SetLinger(0) was called.
func (c *memConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed, c.writeClosed = true, true
	if c.noLinger || c.in.Len() > 0 {
		c.peer.isReset = true
	}
	c.in.Reset()
	c.setDeadline(&c.rd, time.Time{})
	c.setDeadline(&c.wd, time.Time{})
	return nil
}

// SetLinger acts as that of net.TCPConn as far as 0 makes Close a reset.
func (c *memConn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noLinger = sec == 0
	return nil
}

// reset closes c so that the peer sees a connection reset.
func (c *memConn) reset() {
	c.SetLinger(0)
	c.Close()
}

func (c *memConn) SetDeadline(t time.Time) error      { return c.setDeadlines(t, &c.rd, &c.wd) }
func (c *memConn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(t, &c.rd) }
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.wd) }

func (c *memConn) setDeadlines(t time.Time, ds ...*memDeadline) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	for _, d := range ds {
		c.setDeadline(d, t)
	}
	return nil
}

// setDeadline is called with c.mu held.
func (c *memConn) setDeadline(d *memDeadline, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	left := time.Until(t)
	d.expired = !t.IsZero() && left <= 0
	c.changed.Broadcast()
	if t.IsZero() || d.expired {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.timer == timer { // else a newer deadline has taken its place
			d.expired = true
			c.changed.Broadcast()
		}
	})
	d.timer = timer
}

// A memListener accepts the connections that its Dial makes.
type memListener struct {
	mu      sync.Mutex
	changed *sync.Cond
	addr    net.Addr
	backlog []*memConn
	closed  bool
}

func newMemListener() *memListener {
	l := &memListener{addr: memAddr()}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// serve calls f for each connection, and closes it, until l is closed; running counts them.
func (l *memListener) serve(running *sync.WaitGroup, f func(nc net.Conn)) {
	running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer nc.Close()
				f(nc)
			})
		}
	})
}

func (l *memListener) Addr() net.Addr { return l.addr }

func (l *memListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.changed.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close resets the connections that nobody accepted.
func (l *memListener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return &net.OpError{Op: "close", Net: "tcp", Addr: l.addr, Err: net.ErrClosed}
	}
	for _, c := range l.backlog {
		c.reset()
	}
	l.closed, l.backlog = true, nil
	l.changed.Broadcast()
	return nil
}

// Dial connects to l whatever the address; it does not wait for Accept.
func (l *memListener) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.addr, Err: syscall.ECONNREFUSED}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	client, server := memPipeAddr(memAddr(), l.addr)
	l.backlog = append(l.backlog, server)
	l.changed.Broadcast()
	return client, nil
}

func TestMemConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := memPipe()
		return a, b, func() { a.Close(); b.Close() }, nil
	})
}

func TestMemConnHalfClose(t *testing.T) {
	a, b := memPipe()
	io.WriteString(a, "question")
	a.CloseWrite()
	if _, err := a.Write([]byte("more")); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	io.WriteString(b, "answer")
	b.Close()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	a, b = memPipe()
	a.Close()
	if _, err := io.WriteString(b, "x"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write to a closed peer: %v", err)
	}
}

// Writes that block do not mix.
func TestMemConnWriters(t *testing.T) {
	a, b := memPipe()
	var writers sync.WaitGroup
	for _, s := range []string{"1", "2", "3"} {
		writers.Go(func() { io.WriteString(a, strings.Repeat(s, 2*memBuffer)) })
	}
	go func() { writers.Wait(); a.CloseWrite() }()
	got, err := io.ReadAll(b)
	if len(got) != 6*memBuffer || err != nil {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if runs := slices.Compact(got); len(runs) != 3 {
		t.Errorf("three writes arrived in %d pieces", len(runs))
	}
}

func TestMemConnReset(t *testing.T) {
	for name, end := range map[string]func(c *memConn){
		"reset":  (*memConn).reset,
		"unread": func(c *memConn) { io.WriteString(c.peer, "lost"); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := memPipe()
			io.WriteString(a, "kept")
			end(a)
			if got, err := io.ReadAll(b); string(got) != "kept" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read %q, %v", got, err)
			}
			if _, err := io.WriteString(b, "x"); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

func TestMemConnBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := memPipe()
		start := time.Now()
		a.SetWriteDeadline(start.Add(time.Hour))
		n, err := a.Write(make([]byte, 2*memBuffer))
		if n != memBuffer || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Hour {
			t.Errorf("write: %d, %v after %v", n, err, time.Since(start))
		}
		a.CloseWrite()
		if n, err := io.Copy(io.Discard, b); n != memBuffer || err != nil {
			t.Errorf("read: %d, %v", n, err)
		}
		a.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestMemListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemListener()
		go func() {
			if c, err := l.Accept(); err == nil {
				io.Copy(c, c)
				c.Close()
			}
		}()
		c, err := l.Dial(t.Context(), "tcp", "origin.test:80")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "echo")
		c.(*memConn).CloseWrite()
		if got, err := io.ReadAll(c); string(got) != "echo" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		c, _ = l.Dial(t.Context(), "tcp", "origin.test:80")
		l.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read from a connection never accepted: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept after Close: %v", err)
		}
		if _, err := l.Dial(t.Context(), "tcp", "origin.test:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial after Close: %v", err)
		}
	})
}
