package mitm

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connect makes a connection of the stream (RFC 9113, section 8.5), which is served like one
// that was accepted.
func (x *http2Exchange) connect() {
	var o *origin
	if x.route.conn.nest != nil {
		var answered bool
		if o, answered = x.askProxy(); answered {
			return
		}
	}
	nc := newHTTP2Tunnel(x)
	defer nc.stop()
	c := x.client.p.newClient(x.ctx, nc)
	if c == nil {
		x.broken, x.err = true, ErrProxyClosed
		if o != nil {
			o.s.close()
		}
		return
	}
	c.run(func() { x.err = x.blame(x.serveTunnel(c, o)) })
	x.broken = x.broken || nc.wasReset.Load()
}

// serveTunnel serves what is inside of the stream. o is not nil if it is connected already.
func (x *http2Exchange) serveTunnel(c *client, o *origin) (err error) {
	if o != nil {
		err = c.origins.attach(o)
	} else {
		o, err = c.openTunnel(x.route)
	}
	if err != nil {
		x.fail(err)
		return x.err
	}
	x.answered(http.StatusOK)
	x.w.WriteHeader(http.StatusOK)
	if err := http.NewResponseController(x.w).Flush(); err != nil {
		if o != nil {
			c.origins.close(o)
		}
		return &OpError{Op: "send response", Err: fmt.Errorf("%w: %w", ErrClientGone, err)}
	}
	err = c.serveTunnel(x.connected(o))
	x.broken = err != nil
	return err
}

// http2Tunnel is a stream as a connection. Reading is by way of a pipe, because that has
// deadlines. HTTP/2 of net/http can't end one direction of a stream alone, so that a tunnel
// ends as a whole when the origin ends its side.
type http2Tunnel struct {
	net.Conn          // the reading end of the pipe
	in       net.Conn // the other one
	x        *http2Exchange
	rc       *http.ResponseController
	pumped   chan struct{}
	cut      atomic.Pointer[error] // why the client's side has no proper end
	wasReset atomic.Bool           // ours has none

	using   sync.RWMutex // held for reading while x.w is used
	stopped bool
}

func newHTTP2Tunnel(x *http2Exchange) *http2Tunnel {
	out, in := net.Pipe()
	t := &http2Tunnel{Conn: out, in: in, x: x, rc: http.NewResponseController(x.w), pumped: make(chan struct{})}
	go t.pump()
	return t
}

// pump passes on what the client sends.
func (t *http2Tunnel) pump() {
	defer close(t.pumped)
	defer t.in.Close()
	buf := takeBuffer()
	defer giveBuffer(buf)
	for {
		n, err := t.x.req.Body.Read(buf)
		if err != nil && err != io.EOF {
			t.cut.Store(&err)
		}
		if _, failed := t.in.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// stop ends the pump, and sees to it that nobody uses the stream after its handler: a goroutine
// of net/http may go on writing to what was served inside.
func (t *http2Tunnel) stop() {
	t.Conn.Close()
	t.x.req.Body.Close()
	<-t.pumped
	if !t.using.TryLock() {
		t.rc.SetWriteDeadline(past)
		t.using.Lock()
	}
	defer t.using.Unlock()
	t.stopped = true
}

// use calls f as long as the stream is there.
func (t *http2Tunnel) use(f func() error) error {
	t.using.RLock()
	defer t.using.RUnlock()
	if t.stopped {
		return net.ErrClosed
	}
	return f()
}

func (*http2Tunnel) deadlinesWork() {}

// Read implements net.Conn.
func (t *http2Tunnel) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if cut := t.cut.Load(); err == io.EOF && cut != nil {
		err = *cut
	}
	return n, err
}

// Write implements net.Conn.
func (t *http2Tunnel) Write(p []byte) (n int, err error) {
	err = t.use(func() error {
		if n, err = t.x.w.Write(p); err != nil {
			return err
		}
		return t.rc.Flush()
	})
	return n, err
}

// CloseWrite ends both directions, this one when the stream is through with.
func (t *http2Tunnel) CloseWrite() error { return t.in.Close() }

// SetWriteDeadline implements net.Conn. It must not pass: what comes after would fail too.
func (t *http2Tunnel) SetWriteDeadline(by time.Time) error {
	return t.use(func() error { return t.rc.SetWriteDeadline(by) })
}

// SetDeadline implements net.Conn.
func (t *http2Tunnel) SetDeadline(by time.Time) error {
	t.SetReadDeadline(by)
	return t.SetWriteDeadline(by)
}

// SetLinger makes Close, which follows, a reset of the stream that does not wait for a client that
// has stalled.
func (t *http2Tunnel) SetLinger(int) error {
	t.wasReset.Store(true)
	return t.SetWriteDeadline(past)
}

// LocalAddr implements net.Conn.
func (t *http2Tunnel) LocalAddr() net.Addr { return t.x.client.s.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (t *http2Tunnel) RemoteAddr() net.Addr { return t.x.client.s.nc.RemoteAddr() }
