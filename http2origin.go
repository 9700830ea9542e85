package mitm

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// streamWindow is how much of one stream's content waits here for a receiver that is slow,
	// in each direction. It bounds memory.
	streamWindow = 256 << 10
	// maxStreams is how many streams a client may have open at once.
	maxStreams = 250
	// maxFrame is the smallest allowed: larger ones would let streams wait for each other.
	maxFrame = 16 << 10
	// connWindow is so large that streams that stand still never block others. No connection has
	// more than maxStreams.
	connWindow = maxStreams * streamWindow
)

// http2Origins are the HTTP/2 connections to origin servers. Streams of all clients share
// those with the same key.
type http2Origins struct {
	transport *http.Transport

	mu      sync.Mutex
	most    int64        // that are kept while idle
	count   atomic.Int64 // of conns
	conns   map[originKey][]*http2Origin
	dialing map[originKey]*http2Dial
	closed  bool
}

// http2Origin is one of them.
type http2Origin struct {
	*http.ClientConn
	o      *origin
	reused atomic.Bool
	silent atomic.Bool // a request ran into a timeout: it may be gone without a word
}

// http2Dial is a dial that several streams wait for.
type http2Dial struct {
	done chan struct{} // closed when it is through
	err  error         // why there is no connection, for all who waited
}

// givenConn is the context key of the connection that the transport is to use.
type givenConn struct{}

// start makes a transport of net/http that speaks HTTP/2 over connections that exist.
func (hs *http2Origins) start(l *limits) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is done already
	hs.transport = &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(givenConn{}).(net.Conn), nil
		},
		DisableCompression:     true,
		IdleConnTimeout:        max(l.idleTime, 0),
		ResponseHeaderTimeout:  max(l.responseTime, 0),
		MaxResponseHeaderBytes: int64(l.head.bytes),
		HTTP2: &http.HTTP2Config{
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
			WriteByteTimeout:              max(l.contentTime, 0),
		},
	}
	hs.most = maxIdleOrigins
	hs.conns, hs.dialing = map[originKey][]*http2Origin{}, map[originKey]*http2Dial{}
}

// get returns a connection with a place for a stream of r reserved, or, if the origin speaks
// HTTP/1 after all, a connection for that, or nil if one may be idle.
func (hs *http2Origins) get(ctx context.Context, r *route, os *origins, known *choices) (*http2Origin, *origin, error) {
	for {
		if c, ok := known.get(r.key); ok && c.protocol == protoHTTP1 {
			return nil, nil, nil
		}
		c, wait, err := hs.reserve(r.key)
		if c != nil || err != nil {
			return c, nil, err
		}
		if wait == nil {
			return hs.dial(ctx, r, os, known)
		}
		select {
		case <-wait.done:
			if wait.err != nil {
				return nil, nil, wait.err
			}
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
	}
}

// reserve finds a connection with a place, or says what to wait for: nil if it is the
// caller who has to dial.
func (hs *http2Origins) reserve(key originKey) (*http2Origin, *http2Dial, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		return nil, nil, ErrProxyClosed
	}
	for _, c := range hs.conns[key] {
		if c.InFlight() < maxStreams && !c.silent.Load() && c.Reserve() == nil {
			return c, nil, nil
		}
	}
	wait := hs.dialing[key]
	if wait == nil {
		hs.dialing[key] = &http2Dial{done: make(chan struct{})}
	}
	return nil, wait, nil
}

// dial opens a connection, or takes the one that was dialled for the client early. That may have
// waited for long, and be closed meanwhile.
func (hs *http2Origins) dial(ctx context.Context, r *route, os *origins, known *choices) (c *http2Origin, o *origin, err error) {
	defer func() {
		failed := err
		if ctx.Err() != nil { // whoever waits has to dial again
			failed = nil
		}
		hs.dialed(r.key, failed)
	}()
	if early := r.takeEarly(); early != nil {
		if o, err = early.take(); err != nil {
			return nil, nil, err
		}
		early.origins.detach(o)
		if c, o, err = hs.use(o, r.key, os, known); c != nil {
			c.reused.Store(true)
		}
		if err == nil {
			return c, o, nil
		}
	}
	if o, err = os.dialer.open(ctx, r.key, r.conn); err != nil {
		return nil, nil, err
	}
	return hs.use(o, r.key, os, known)
}

// use begins HTTP/2 on o if that is what it speaks.
func (hs *http2Origins) use(o *origin, key originKey, os *origins, known *choices) (*http2Origin, *origin, error) {
	if o.state != nil {
		known.put(key, o)
	}
	if key.alpn == protoH2C || o.state != nil && o.state.NegotiatedProtocol == protoHTTP2 {
		c, err := hs.add(o, key)
		return c, nil, err
	}
	return nil, o, os.attach(o)
}

func (hs *http2Origins) dialed(key originKey, err error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.dialing[key].err = err
	close(hs.dialing[key].done)
	delete(hs.dialing, key)
}

// add begins HTTP/2 on o, and reserves a place on it.
func (hs *http2Origins) add(o *origin, key originKey) (*http2Origin, error) {
	ctx := context.WithValue(context.Background(), givenConn{}, net.Conn(&streamConn{s: o.s}))
	cc, err := hs.transport.NewClientConn(ctx, "http", "origin:80")
	if err != nil {
		o.s.close()
		return nil, &OpError{Op: "send request", Addr: key.addr, Err: err}
	}
	c := &http2Origin{ClientConn: cc, o: o}
	if err := cc.Reserve(); err != nil {
		cc.Close()
		return nil, &OpError{Op: "send request", Addr: key.addr, Err: err}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		defer cc.Close()
		return nil, ErrProxyClosed
	}
	hs.conns[key] = append(hs.conns[key], c)
	hs.count.Add(1)
	cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.Err() != nil || (c.silent.Load() || hs.count.Load() > hs.most) && cc.InFlight() == 0 {
			go hs.rest(c, key) // the hook may be called where the lock is held
		}
	})
	return c, nil
}

// rest removes a connection that has ended, or is idle and of no more use, or while there are
// too many.
func (hs *http2Origins) rest(c *http2Origin, key originKey) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if c.Err() == nil && (c.InFlight() > 0 || !c.silent.Load() && hs.count.Load() <= hs.most) {
		return
	}
	i := slices.Index(hs.conns[key], c)
	if i < 0 {
		return
	}
	hs.count.Add(-1)
	if hs.conns[key] = slices.Delete(hs.conns[key], i, i+1); len(hs.conns[key]) == 0 {
		delete(hs.conns, key)
	}
	go c.Close() // which takes time, and calls the hook
}

// close closes all connections and takes no more.
func (hs *http2Origins) close() {
	hs.mu.Lock()
	conns := hs.conns
	hs.conns, hs.closed = nil, true
	hs.mu.Unlock()
	for _, list := range conns {
		for _, c := range list {
			c.Close()
		}
	}
}

// http2StreamError has the shape of the error of a reset stream, which net/http does not
// export but converts to any type like this one.
type http2StreamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

// Error implements error.
func (e http2StreamError) Error() string { return "stream error" }

// mayRepeat says whether a request that ended in err, and of whose content nothing was read,
// may be sent again. A reset of the stream is an answer.
func (c *http2Origin) mayRepeat(err error, method string) bool {
	var reset http2StreamError
	return unprocessed(err) || c.reused.Load() && idempotent(method) && !isTimeout(err) && !errors.As(err, &reset)
}

// unprocessed says whether an origin has said that it did nothing for a request (RFC 9113,
// sections 6.8 and 8.7).
func unprocessed(err error) bool {
	const refusedStream = 7
	var stream http2StreamError
	if errors.As(err, &stream) {
		return stream.Code == refusedStream
	}
	switch err.Error() { // of errors that net/http does not export
	case "http2: Transport received Server's graceful shutdown GOAWAY", "http2: client conn not usable":
		return true
	}
	return false
}

// http2Upload is the content of a request on its way to an origin. As long as nothing of it
// was read the request can be sent again. It is read by net/http's goroutines, and survives
// the panic of a reader that a hook put in.
type http2Upload struct {
	h       *hookedExchange
	src     *readerSource
	framing framing
	rest    []byte
	c       io.Closer
	touched atomic.Bool
}

// Read implements io.Reader.
func (u *http2Upload) Read(p []byte) (n int, err error) {
	defer u.h.recovered(&err)
	u.touched.Store(true)
	if len(u.rest) == 0 {
		u.rest, err = u.src.next()
		if err == io.EOF && u.framing.kind == knownLength && u.src.sent() < u.framing.length {
			err = errContentShort
		}
		if err != nil {
			return 0, err
		}
	}
	n = copy(p, u.rest)
	u.rest = u.rest[n:]
	return n, nil
}

// Close implements io.Closer, for net/http, which does not want more.
func (u *http2Upload) Close() error {
	if u.touched.Load() {
		u.h.closeBody(u.c)
	}
	return nil
}

// end closes what is left.
func (u *http2Upload) end() {
	if u.src != nil {
		u.h.closeBody(u.c)
	}
}

// streamConn is a stream as a net.Conn, for net/http.
type streamConn struct {
	s       *stream
	reading sync.Mutex // held while the stream is read
	left    bool       // it is not read any more
}

// Read implements net.Conn.
func (c *streamConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.left {
		return 0, net.ErrClosed
	}
	return c.s.Read(p)
}

// leave takes the stream, which is closed, back from a goroutine that may still read.
func (c *streamConn) leave() {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.left = true
}

// Write implements net.Conn.
func (c *streamConn) Write(p []byte) (int, error) { return c.s.nc.Write(p) }

// Close implements net.Conn.
func (c *streamConn) Close() error { return c.s.close() }

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
func (c *streamConn) SetDeadline(t time.Time) error { return c.s.nc.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (c *streamConn) SetReadDeadline(t time.Time) error { return c.s.nc.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *streamConn) SetWriteDeadline(t time.Time) error { return c.s.nc.SetWriteDeadline(t) }
