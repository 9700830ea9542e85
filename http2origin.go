package mitm

import (
	"context"
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
	// connWindow is so large that stalled streams never block others. No connection has more than
	// maxStreams.
	connWindow = maxStreams * streamWindow
)

// http2Origins are the HTTP/2 connections to origin servers. Streams of all clients share
// those with the same key.
type http2Origins struct {
	transport   *http.Transport
	contentTime time.Duration // how long a write may take
	choices     *choices
	sweeper     sweeper // of what streams carry

	mu      sync.Mutex
	most    int64        // that are kept while idle
	count   atomic.Int64 // of conns
	conns   map[originKey][]*http2Origin
	dialing map[originKey]*http2Dial
	closed  bool

	tasks tasks // that can't be done where a lock is held
}

// http2Origin is one of them.
type http2Origin struct {
	*http.ClientConn
	o       *origin
	conn    *streamConn // on that of o
	reused  atomic.Bool
	silent  atomic.Bool // a request ran into a timeout, or see silence: it may be gone without a word
	silence atomic.Pointer[silence]
}

// http2Dial is a dial that several streams wait for.
type http2Dial struct {
	done  chan struct{} // closed when it is through
	err   error         // why there is no connection, for all who waited
	begun atomic.Bool
}

// mine reports whether it is the caller who has to dial.
func (d *http2Dial) mine() bool { return !d.begun.Swap(true) }

// givenConn is the context key of the connection that the transport is to use.
type givenConn struct{}

// start makes a transport of net/http that speaks HTTP/2 over connections that exist.
func (hs *http2Origins) start(l *limits, known *choices) {
	hs.choices, hs.contentTime, hs.sweeper.limit = known, l.contentTime, l.contentTime
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
		},
	}
	hs.most = maxIdleOrigins
	hs.conns, hs.dialing = map[originKey][]*http2Origin{}, map[originKey]*http2Dial{}
}

// get returns a connection with a place for a stream of r reserved, or, if the origin speaks
// HTTP/1 after all, a connection for that, or nil if one may be idle.
func (hs *http2Origins) get(ctx context.Context, r *route, os *origins) (*http2Origin, *origin, error) {
	for {
		c, wait, err := hs.reserve(r.key)
		if c != nil || err != nil {
			return c, nil, err
		}
		if wait == nil {
			return nil, nil, nil
		}
		if wait.mine() {
			return hs.dial(ctx, r, os)
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

// reserve finds a connection with a place, or a dial to wait for, which may be the caller's to
// make. It returns neither if the origin is known to speak HTTP/1.
func (hs *http2Origins) reserve(key originKey) (*http2Origin, *http2Dial, error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		return nil, nil, ErrProxyClosed
	}
	for _, c := range hs.conns[key] {
		if !c.silent.Load() && c.seemsGone() {
			c.silent.Store(true)
			hs.tasks.run(func() { hs.rest(c, key) }) // the lock is held
		}
		if c.InFlight() < maxStreams && !c.silent.Load() && c.Reserve() == nil {
			return c, nil, nil
		}
	}
	if hs.choices.onlyHTTP1(key) {
		return nil, nil, nil
	}
	if hs.dialing[key] == nil {
		hs.dialing[key] = &http2Dial{done: make(chan struct{})}
	}
	return nil, hs.dialing[key], nil
}

// dial opens a connection, or takes the one that was dialled for the client early.
func (hs *http2Origins) dial(ctx context.Context, r *route, os *origins) (c *http2Origin, o *origin, err error) {
	defer func() {
		failed := err
		if ctx.Err() != nil { // whoever waits has to dial again
			failed = nil
		}
		hs.dialed(r.key, failed)
	}()
	if early := r.takeEarly(); early != nil {
		if c, o, err = hs.useEarly(early, r, os); c != nil || o != nil || err != nil {
			return c, o, err
		}
	}
	if o, err = os.dialer.open(ctx, r.key, r.conn); err != nil {
		return nil, nil, err
	}
	return hs.use(o, r, os)
}

// useEarly is use for a connection that was dialled early. That may have waited for long, and be
// closed meanwhile, or be of no use otherwise: then it returns nothing.
func (hs *http2Origins) useEarly(early *earlyDial, r *route, os *origins) (*http2Origin, *origin, error) {
	o, err := early.takeHTTP()
	if o == nil {
		return nil, nil, err
	}
	c, o, err := hs.use(o, r, os)
	switch {
	case err != nil:
		return nil, nil, nil
	case c != nil:
		c.reused.Store(true)
	case o.s.pending():
		os.close(o)
		return nil, nil, nil
	}
	return c, o, nil
}

// use begins HTTP/2 on o if that is what it speaks.
func (hs *http2Origins) use(o *origin, r *route, os *origins) (*http2Origin, *origin, error) {
	if o.state != nil {
		hs.choices.put(r.key, o, r.conn)
	}
	if r.key.alpn == protoH2C || o.choseHTTP2() {
		c, err := hs.add(o, r.key)
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
	conn := newStreamConn(o.s, hs.contentTime, closeGrace)
	ctx := context.WithValue(context.Background(), givenConn{}, net.Conn(conn))
	cc, err := hs.transport.NewClientConn(ctx, "http", "origin:80")
	if err != nil {
		o.s.close()
		return nil, &OpError{Op: "send request", Addr: key.addr, Err: err}
	}
	c := &http2Origin{ClientConn: cc, o: o, conn: conn}
	if err := cc.Reserve(); err != nil {
		c.end()
		return nil, &OpError{Op: "send request", Addr: key.addr, Err: err}
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed {
		defer c.end()
		return nil, ErrProxyClosed
	}
	hs.conns[key] = append(hs.conns[key], c)
	hs.count.Add(1)
	cc.SetStateHook(func(cc *http.ClientConn) {
		if cc.Err() != nil || (c.silent.Load() || hs.count.Load() > hs.most) && cc.InFlight() == 0 {
			hs.tasks.run(func() { hs.rest(c, key) }) // the hook may be called where the lock is held
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
	hs.tasks.run(c.end) // which takes time, and calls the hook
}

// end closes the connection. What is being written has closeGrace.
func (c *http2Origin) end() {
	c.Close()
	c.conn.out.wait()
	c.conn.cut()
}

// close closes all connections and takes no more.
func (hs *http2Origins) close() {
	hs.mu.Lock()
	conns := hs.conns
	hs.conns, hs.closed = nil, true
	hs.mu.Unlock()
	hs.sweeper.stop()
	for _, list := range conns {
		for _, c := range list {
			c.Close()
			c.conn.cut() // what is still being written is not waited for
		}
	}
	hs.tasks.wait()
}
