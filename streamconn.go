package mitm

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// closeGrace is how long what goes to an origin may take after the connection is given up.
const closeGrace = time.Second

// streamConn is a stream as a net.Conn, for HTTP/2 of net/http.
type streamConn struct {
	s       *stream
	out     *batchWriter
	reading sync.Mutex   // held while the stream is read
	taken   bool         // back: it is not read any more
	heard   atomic.Int64 // how often something was read

	failed atomic.Bool   // a Read has: whoever reads is about to end
	once   sync.Once     // of gone
	gone   chan struct{} // closed when whoever read has closed the connection, the last that it does
}

// newStreamConn returns one whose writes may each take idle, and linger after Close.
func newStreamConn(s *stream, idle, linger time.Duration) *streamConn {
	return &streamConn{s: s, out: newBatchWriter(s, idle, linger), gone: make(chan struct{})}
}

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.taken {
		return 0, net.ErrClosed
	}
	n, err := c.s.Read(p)
	if n > 0 {
		c.heard.Add(1)
	}
	if err != nil {
		c.failed.Store(true)
		err = c.out.cause(err)
	}
	return n, err
}

// takeBack makes sure that no goroutine uses the stream, which was closed, any more.
func (c *streamConn) takeBack() {
	c.out.wait()
	c.reading.Lock()
	defer c.reading.Unlock()
	c.taken = true
}

// Write implements net.Conn.
func (c *streamConn) Write(p []byte) (int, error) { return c.out.Write(p) }

// Close implements net.Conn.
func (c *streamConn) Close() error {
	if c.failed.Load() {
		c.once.Do(func() { close(c.gone) })
	}
	return c.out.close()
}

// cut ends a connection of net/http's Transport now. It returns when neither the goroutine that
// reads it is left, which is not waited for without end, nor the one that writes.
func (c *streamConn) cut() {
	c.s.reset()
	c.out.wait()
	late := time.NewTimer(closeGrace)
	defer late.Stop()
	select {
	case <-c.gone:
	case <-late.C:
	}
}

// LocalAddr implements net.Conn.
func (c *streamConn) LocalAddr() net.Addr { return addrOr(c.s.nc.LocalAddr()) }

// RemoteAddr implements net.Conn.
func (c *streamConn) RemoteAddr() net.Addr { return addrOr(c.s.nc.RemoteAddr()) }

// addrOr returns a, or an address without a text: net/http does not look for nil.
func addrOr(a net.Addr) net.Addr {
	if a == nil {
		return &net.UnixAddr{}
	}
	return a
}

// SetDeadline implements net.Conn.
func (c *streamConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *streamConn) SetReadDeadline(t time.Time) error { return c.s.nc.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn. Writes have their own.
func (c *streamConn) SetWriteDeadline(time.Time) error { return nil }
