package mitm

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// pumpAhead is how many bytes a pump keeps that nobody asked for yet.
	pumpAhead = 1 << 20
	// pumpStall is how long a write may take before the peer is taken to be writing itself instead
	// of reading.
	pumpStall = 10 * time.Millisecond
	// pumpDiscard is how much a pump discards of what came too late to matter, so that an answer
	// gets through. It is the size that the buffers of a TCP socket grow to.
	pumpDiscard = 6 << 20
	// pumpGrace is how long a connection that was closed has to let go of its reads and writes.
	pumpGrace = time.Second
	// pumpTries is how often a connection may return neither bytes nor an error.
	pumpTries = 100
)

// pump is a connection of an unknown type, with what the sockets of package net have and a net.Conn
// may lack:
//
//   - Deadlines. Reads and writes run in goroutines of their own, so that a caller can give up
//     waiting. The read goes on, and its bytes are kept for the next one. So does the write: nobody
//     knows then whether its bytes go out, so the connection has to be closed.
//   - A buffer for what arrives during a write. Without one, as in a net.Pipe, two sides that both
//     write wait for each other forever.
//
// The pump does not read while nobody reads from it, except during a write. It leaves the
// connection's own deadlines alone: one that passes in a handshake, for example, would end the
// connection for good.
type pump struct {
	net.Conn

	mu       sync.Mutex
	changed  sync.Cond // of what follows
	in       [][]byte  // what was read ahead, in pooled buffers
	at       int       // how much of the first of them was taken
	held     int       // bytes in in
	reading  bool
	writing  bool
	readErr  error // what came behind in
	wrote    error // the result of the last write
	rd, wd   limit
	stall    limit // of the write under way
	discards int   // how many bytes may be thrown away yet
	closed   bool
	ended    bool  // Conn's own Close has returned
	endErr   error // what it returned
}

// limit is a deadline.
type limit struct {
	by     time.Time
	passed bool
	timer  *time.Timer
}

// dependable returns nc, in a pump unless its type is known to need none.
func dependable(nc net.Conn) (net.Conn, *pump) {
	if hasDeadlines(nc) {
		return nc, nil
	}
	p := &pump{Conn: nc}
	p.changed.L = &p.mu
	return p, p
}

func (*pump) deadlinesWork() {}

// Read implements net.Conn.
func (p *pump) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.await(); err != nil {
		return 0, err
	}
	n := copy(b, p.in[0][p.at:])
	p.held -= n
	if p.at += n; p.at == len(p.in[0]) {
		giveBuffer(p.shift())
	}
	return n, nil
}

// next returns what has arrived, without copying it: b[at:], in a buffer that is the caller's now.
func (p *pump) next() (b []byte, at int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.await(); err != nil {
		return nil, 0, err
	}
	at = p.at
	return p.shift(), at, nil
}

// hasArrived reports whether a read that somebody gave up has brought something since then.
func (p *pump) hasArrived() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.in) > 0 || p.readErr != nil
}

// shift takes the first buffer out of in.
func (p *pump) shift() []byte {
	b := p.in[0]
	p.held -= len(b) - p.at
	p.in[0], p.at = nil, 0
	if p.in = p.in[1:]; len(p.in) == 0 {
		p.in = nil
	}
	return b
}

// empty throws away what was read ahead.
func (p *pump) empty() {
	for len(p.in) > 0 {
		giveBuffer(p.shift())
	}
}

// await waits until there is something in in. It is called with the lock, as all below is.
func (p *pump) await() error {
	for {
		switch {
		case p.closed:
			return net.ErrClosed
		case p.rd.passed:
			return os.ErrDeadlineExceeded
		case len(p.in) > 0:
			return nil
		case p.readErr != nil:
			err := p.readErr
			if isTimeout(err) { // of a deadline that somebody else has set
				p.readErr = nil
			}
			return err
		}
		p.startReading()
		p.changed.Wait()
	}
}

func (p *pump) startReading() {
	if !p.reading && p.readErr == nil && !p.closed {
		p.reading = true
		go p.read()
	}
}

// read is the goroutine that reads, once, or on for as long as a write waits for the peer.
func (p *pump) read() {
	for {
		b := takeBuffer()
		n, err := readSome(p.Conn, b)
		if !p.arrived(b, n, err) {
			return
		}
	}
}

// readSome does not return without either bytes or an error.
func readSome(r io.Reader, b []byte) (n int, err error) {
	for range pumpTries {
		if n, err = r.Read(b); n != 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// arrived keeps what a read brought, and reports whether to read on.
func (p *pump) arrived(b []byte, n int, err error) (more bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.changed.Broadcast()
	switch {
	case n == 0 || p.closed:
		giveBuffer(b)
	case p.discards > 0:
		p.discards -= n
		giveBuffer(b)
	default:
		p.keep(b[:n])
	}
	p.readErr = err
	p.reading = err == nil && !p.closed && p.readsAhead()
	return p.reading
}

// keep puts b, a buffer, into in, or what is in it into the last one there if that has room: many small
// pieces would take many buffers.
func (p *pump) keep(b []byte) {
	p.held += len(b)
	if last := len(p.in) - 1; last >= 0 && cap(p.in[last])-len(p.in[last]) >= len(b) {
		p.in[last] = append(p.in[last], b...)
		giveBuffer(b)
		return
	}
	p.in = append(p.in, b)
}

// readsAhead reports whether to read although no Read is pending.
func (p *pump) readsAhead() bool { return p.writing && p.stall.passed && p.held < pumpAhead }

// discard makes the pump discard what arrives from now on, within reason: nobody will read it.
func (p *pump) discard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discards = pumpDiscard
	p.empty()
	p.changed.Broadcast()
}

// Write implements net.Conn.
func (p *pump) Write(b []byte) (n int, err error) {
	for first := true; first || n < len(b); first = false {
		piece := takeBuffer()
		size := copy(piece, b[n:])
		err := p.perform(func() error {
			_, err := p.Conn.Write(piece[:size])
			giveBuffer(piece)
			return err
		})
		if err != nil {
			return n, err
		}
		n += size
	}
	return n, nil
}

// CloseWrite ends the sending side, if the connection can do that, else it returns errNoHalfClose.
func (p *pump) CloseWrite() error {
	half := halfCloser(p.Conn)
	if half == nil {
		return errNoHalfClose
	}
	return p.perform(half.CloseWrite)
}

// perform does what may wait for the peer, with the write deadline.
func (p *pump) perform(f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writing && !p.closed && !p.wd.passed {
		p.changed.Wait()
	}
	switch {
	case p.closed:
		return net.ErrClosed
	case p.wd.passed:
		return os.ErrDeadlineExceeded
	}
	p.writing = true
	go p.run(f)
	p.setLimit(&p.stall, time.Now().Add(pumpStall))
	defer p.setLimit(&p.stall, time.Time{})
	for p.writing && !p.closed && !p.wd.passed {
		if p.readsAhead() {
			p.startReading()
		}
		p.changed.Wait()
	}
	switch {
	case !p.writing:
		return p.wrote
	case p.closed:
		return net.ErrClosed
	}
	return os.ErrDeadlineExceeded
}

// run is the goroutine that writes.
func (p *pump) run(f func() error) {
	err := f()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing, p.wrote = false, err
	p.changed.Broadcast()
}

// Close implements net.Conn.
func (p *pump) Close() error { return p.end(p.Conn.Close) }

// abort closes the connection so that the peer sees an error if there is a way to show one.
func (p *pump) abort() { p.end(func() error { return abort(p.Conn) }) }

// end closes the connection by f, and waits for its reads and writes to return. A connection that
// does not release them is abandoned.
func (p *pump) end(f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := p.closed
	if p.shut(f); !again { // else what is left of the time counts
		p.setLimit(&p.rd, time.Time{})
		p.setLimit(&p.wd, time.Now().Add(pumpGrace))
	}
	for !p.wd.passed && (p.reading || p.writing || !p.ended) {
		p.changed.Wait()
	}
	p.wd.timer.Stop()
	if again {
		return net.ErrClosed
	}
	return p.endErr
}

// shut begins to close the connection by f, which may wait for the peer.
func (p *pump) shut(f func() error) {
	if p.closed {
		return
	}
	p.closed = true
	p.empty()
	p.changed.Broadcast()
	go func() {
		err := f()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ended, p.endErr = true, err
		p.changed.Broadcast()
	}()
}

// SetDeadline implements net.Conn.
func (p *pump) SetDeadline(t time.Time) error {
	p.SetReadDeadline(t)
	return p.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (p *pump) SetReadDeadline(t time.Time) error { return p.set(&p.rd, t) }

// SetWriteDeadline implements net.Conn.
func (p *pump) SetWriteDeadline(t time.Time) error { return p.set(&p.wd, t) }

func (p *pump) set(l *limit, t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.setLimit(l, t)
	return nil
}

func (p *pump) setLimit(l *limit, t time.Time) {
	left := time.Until(t)
	l.by, l.passed = t, !t.IsZero() && left <= 0
	switch {
	case t.IsZero() || l.passed:
		if l.timer != nil {
			l.timer.Stop()
		}
	case l.timer != nil:
		l.timer.Reset(left)
	default:
		l.timer = time.AfterFunc(left, func() { p.expire(l) })
	}
	p.changed.Broadcast()
}

// expire is called when a deadline may have passed: it may have been moved meanwhile.
func (p *pump) expire(l *limit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.by.IsZero() && !l.passed {
		p.setLimit(l, l.by)
	}
}
