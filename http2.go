package mitm

import (
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lastWords is how long a client may take for what is on its way when its connection is closed.
const lastWords = 30 * time.Second

// http2Client is a client connection that speaks HTTP/2. The frames are the business of
// net/http, whose server calls ServeHTTP for each stream.
type http2Client struct {
	c      *client
	server *http.Server
	closed chan struct{}

	schemeTold bool // see http2scheme.go

	mu      sync.Mutex
	active  map[*http2Exchange]struct{}
	ended   bool
	none    sync.Cond // nothing is active any more
	sweeper sweeper
}

// serveHTTP2 serves the streams of a connection until it ends.
func (c *client) serveHTTP2() {
	h := &http2Client{c: c, closed: make(chan struct{}), active: map[*http2Exchange]struct{}{}}
	h.none.L = &h.mu
	limits := &c.p.limits
	h.sweeper.limit = limits.contentTime
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true) // TLS is done already
	h.server = &http.Server{
		Handler:                      h,
		DisableGeneralOptionsHandler: true,
		Protocols:                    protocols,
		MaxHeaderBytes:               2 * limits.head.bytes, // beyond that the connection ends, see readFields
		IdleTimeout:                  max(limits.idleTime, 0),
		ReadHeaderTimeout:            max(limits.headTime, 0),
		BaseContext:                  func(net.Listener) context.Context { return c.ctx },
		ConnState:                    h.connState,
		ErrorLog:                     log.New(io.Discard, "", 0), // what clients do wrong
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReadFrameSize:              maxFrame,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
		},
	}
	c.remoteAddr() // made into text before streams share it
	c.drain.Store(h.server)
	if c.p.closing.Load() {
		c.closeIfIdle()
	}
	conn := newStreamConn(c.s, limits.contentTime, lastWords)
	l := &oneListener{conn: conn, ready: h.tellScheme}
	h.server.Serve(l)
	if l.taken.Load() {
		<-h.closed
		conn.takeBack()
		h.abandon()
	}
	c.drain.Store(nil)
	h.wait()
}

// connState is told by net/http what becomes of the connection. It is active for the first time
// when net/http knows it as HTTP/2; a Shutdown that came before that has told nobody to go.
func (h *http2Client) connState(_ net.Conn, state http.ConnState) {
	switch {
	case state == http.StateClosed:
		close(h.closed)
	case state == http.StateActive && h.c.p.closing.Load():
		h.c.closeIfIdle()
	}
}

// enter makes x one of those that are waited for; false if it comes too late.
func (h *http2Client) enter(x *http2Exchange) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended {
		return false
	}
	h.active[x] = struct{}{}
	h.sweeper.watch(x)
	return true
}

func (h *http2Client) leave(x *http2Exchange) {
	h.sweeper.forget(x)
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.active, x)
	if len(h.active) == 0 {
		h.none.Broadcast()
	}
}

// abandon ends what is done for exchanges that are still under way: their client is gone, and
// nothing can be sent to it any more.
func (h *http2Client) abandon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.active) > 0 {
		h.c.leave()
	}
}

// wait returns when all exchanges have ended; net/http does not wait for them.
func (h *http2Client) wait() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ended = true
	for len(h.active) > 0 {
		h.none.Wait()
	}
	h.sweeper.stop()
}

// ServeHTTP implements http.Handler.
func (h *http2Client) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	x := &http2Exchange{routed: routed{client: h.c}, w: w, req: req, schemeTold: h.schemeTold}
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	x.ctx, x.cancel = ctx, cancel
	if !h.enter(x) {
		panic(http.ErrAbortHandler)
	}
	defer h.leave(x)
	defer x.endFlush()
	if x.serve(); x.broken {
		panic(http.ErrAbortHandler) // RST_STREAM: what was sent must not look complete
	}
}

// oneListener accepts one connection.
type oneListener struct {
	conn  *streamConn
	ready func(*streamConn) // called before
	taken atomic.Bool
}

// Accept implements net.Listener.
func (l *oneListener) Accept() (net.Conn, error) {
	if l.taken.Swap(true) {
		return nil, io.EOF
	}
	l.ready(l.conn)
	return l.conn, nil
}

// Close implements net.Listener.
func (l *oneListener) Close() error { return nil }

// Addr implements net.Listener.
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }
