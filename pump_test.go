package mitm

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

// deaf is a connection whose deadlines have no effect.
type deaf struct{ net.Conn }

func (deaf) SetDeadline(time.Time) error      { return nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }

func pumped(nc net.Conn) *pump {
	_, p := dependable(deaf{nc})
	return p
}

// A pump is as good as a connection of package net.
func TestPump(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := net.Pipe()
		p, q := pumped(a), pumped(b)
		return p, q, func() { p.Close(); q.Close() }, nil
	})
}

// What a read brings that was given up is there for the next one.
func TestPumpGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		p := pumped(a)
		p.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := p.Read(make([]byte, 8)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		io.WriteString(b, "late")
		p.SetReadDeadline(time.Time{})
		if got, at, err := p.next(); string(got[at:]) != "late" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		p.Close()
	})
}

// Nothing is read that nobody asked for, unless a write waits; then it is bounded.
func TestPumpReadsAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		p := pumped(a)
		var count atomic.Int64
		go func() {
			for {
				n, err := b.Write(make([]byte, 1000))
				if count.Add(int64(n)); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Hour)
		if n := count.Load(); n != 0 {
			t.Errorf("%d bytes were read that nobody asked for", n)
		}
		p.SetWriteDeadline(time.Now().Add(time.Hour))
		if _, err := p.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		if sent := count.Load(); sent < pumpAhead || sent > pumpAhead+bufferSize {
			t.Errorf("%d bytes were read ahead", sent)
		}
		p.Close()
	})
}

// A connection that returns neither bytes nor an error does not keep a processor busy.
func TestPumpNoProgress(t *testing.T) {
	t.Parallel()
	p := pumped(empty{})
	if _, err := p.Read(make([]byte, 1)); err != io.ErrNoProgress {
		t.Errorf("read: %v", err)
	}
	p.Close()
}

type empty struct{ net.Conn }

func (empty) Read([]byte) (int, error) { return 0, nil }
func (empty) Close() error             { return nil }

// The buffers that reads took go back whole, however little of them is read at once.
func TestPumpPieces(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	p := pumped(a)
	want := bytes.Repeat([]byte("0123456789"), 30_000)
	go func() {
		b.Write(want)
		b.Close()
	}()
	var got []byte
	for piece := make([]byte, 777); ; {
		n, err := p.Read(piece)
		if got = append(got, piece[:n]...); err != nil {
			break
		}
	}
	if !bytes.Equal(got, want) || p.held != 0 {
		t.Errorf("got %d bytes, %d are held", len(got), p.held)
	}
	p.Close()
}

// Types that are known to need none have none.
func TestPumpTypes(t *testing.T) {
	t.Parallel()
	pipe, _ := net.Pipe()
	for _, test := range []struct {
		nc   net.Conn
		want bool
	}{{new(net.TCPConn), false}, {new(net.UnixConn), false}, {struct{ *net.TCPConn }{}, true}, {pipe, true}, {deaf{pipe}, true}} {
		if _, p := dependable(test.nc); (p != nil) != test.want {
			t.Errorf("%T: %v", test.nc, p != nil)
		}
	}
	pipe.Close()
}

// However many close a connection that does not react to that, each waits for it no longer than it may.
func TestPumpClosedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		over := make(chan bool)
		p := pumped(stuck{a, over})
		closed := make(chan bool, 2)
		go func() { p.Close(); closed <- true }()
		time.Sleep(pumpGrace / 2)
		go func() { p.abort(); closed <- true }()
		for range 2 {
			select {
			case <-closed:
			case <-time.After(time.Hour):
				t.Error("it hangs")
			}
		}
		close(over)
		synctest.Wait()
		a.Close()
		b.Close()
	})
}

// stuck hangs in Close.
type stuck struct {
	net.Conn
	over chan bool
}

func (s stuck) Close() error {
	<-s.over
	return nil
}

// Many small pieces that nobody has asked for yet take no more buffers than their bytes need.
func TestPumpSmallPieces(t *testing.T) {
	p := pumped(nil)
	for range 10_000 {
		p.arrived(takeBuffer(), 10, nil)
	}
	if len(p.in) != 2 || p.held != 100_000 {
		t.Errorf("%d bytes in %d buffers", p.held, len(p.in))
	}
	p.empty()
}
