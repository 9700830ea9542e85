package mitm

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// errFull says that a stream's buffer may not grow further.
var errFull = errors.New("buffer full")

// past is a deadline that interrupts whatever waits for a connection.
var past = time.Unix(1, 0)

// stream is a connection with a buffer in front of its reading side. The buffer is
// taken when bytes arrive and given back when they are consumed, so that a waiting
// connection costs no memory. One goroutine reads and one writes at a time.
type stream struct {
	nc  net.Conn        // as accepted or dialled: the kernel can splice it if it is a socket
	own *pump           // nc, if that is one around what was accepted or dialled; else nil
	raw syscall.RawConn // nil: nc runs on no socket, so waiting needs a buffer
	low syscall.RawConn // the socket that carries nc, under TLS too; nil: none
	tls *tlsSocket      // what nc runs on if it is TLS; nil if that is not ours
	out *socketWriter   // writes to nc

	buf      []byte // nil while nothing is buffered
	r, w     int    // buf[r:w] is unread
	readable func(fd uintptr) bool
	probe    func(fd uintptr)
	err      error // result of readable and probe
	question flusher
	askErr   error // of question
	polled   polled
	limited  io.LimitedReader // of nc, see spliceSome

	readBy, writeBy time.Time // deadlines in force, each owned by who reads or writes

	mu          sync.Mutex // orders deadlines set by different goroutines
	readEnd     time.Time  // those of the connection, which may have been put off
	writeEnd    time.Time
	interrupted bool
	hurried     bool
	guard       *loopWatch // see loopGuard; nil: none, or no more
	loop        bool       // it was one when guard ended
}

func newStream(nc net.Conn) *stream {
	nc, own := dependable(nc)
	raw := rawConn(nc)
	s := &stream{nc: nc, own: own, raw: raw, low: raw, out: newSocketWriter(nc, raw)}
	s.readable, s.probe = s.readReady, s.pollSocket
	return s
}

// given returns the connection as it was accepted or dialled.
func (s *stream) given() net.Conn {
	if s.own != nil {
		return s.own.Conn
	}
	return s.nc
}

// pump returns what makes up for the shortcomings of the connection, under TLS too, or nil.
func (s *stream) pump() *pump {
	if s.tls != nil {
		p, _ := s.tls.Conn.(*pump)
		return p
	}
	return s.own
}

// buffered returns the unread bytes; they are valid until the next fill.
func (s *stream) buffered() []byte { return s.buf[s.r:s.w] }

// endedOpen reports whether the connection, at its end, ended without a word of its protocol.
func (s *stream) endedOpen() bool { return s.tls != nil && s.tls.ended }

// discard consumes n buffered bytes. They stay readable until the next fill or release.
func (s *stream) discard(n int) { s.r += n }

// release gives the buffer back if everything in it was consumed.
func (s *stream) release() {
	if s.buf != nil && s.r == s.w {
		giveBuffer(s.buf)
		s.buf, s.r, s.w = nil, 0, 0
	}
}

// fill reads once and adds what came to the buffer. The buffer grows up to limit
// bytes; beyond that fill returns errFull.
func (s *stream) fill(limit int) error {
	if err := s.makeRoom(limit); err != nil {
		return err
	}
	if s.raw != nil {
		if err := s.raw.Read(s.readable); err != nil {
			return err
		}
		return s.err
	}
	if s.own != nil && s.buf == nil {
		return s.fillWhole()
	}
	s.takeIfNone()
	n, err := s.nc.Read(s.buf[s.w:])
	s.w += n
	s.release()
	if n > 0 {
		return nil // an error with bytes comes again without them
	}
	return err
}

// fillWhole takes over what was read for the stream, with its buffer.
func (s *stream) fillWhole() error {
	b, at, err := s.own.next()
	if err == nil {
		s.buf, s.r, s.w = b[:cap(b)], at, len(b)
	}
	return err
}

func (s *stream) takeIfNone() {
	if s.buf == nil {
		s.buf = takeBuffer()
	}
}

// readReady is what a RawConn calls when the socket may be readable.
func (s *stream) readReady(fd uintptr) bool {
	s.takeIfNone()
	n, err := readSocket(fd, s.buf[s.w:])
	if err == errWouldBlock {
		s.release()
		s.pose()
		return false
	}
	s.w += n
	if n == 0 && err == nil {
		err = io.EOF
	}
	s.err = s.unlessAsked(err)
	s.release()
	return true
}

// flusher sends what it has.
type flusher interface{ flush() error }

// errUnasked is what a read returns that has found something, before a question was sent.
var errUnasked = errors.New("something is there that nobody asked for")

// ask makes the next fill send q and wait for the answer. What is there before that is no answer,
// but errUnasked, and q is not sent. So one read that finds nothing both shows that an idle
// connection is in order and begins the wait. It returns false if the stream can't do that. An
// error of q is left in askErr.
func (s *stream) ask(q flusher) bool {
	if s.raw == nil || len(s.buffered()) > 0 {
		return false
	}
	s.question, s.askErr = q, nil
	return true
}

// pose sends the question if there is one. Nothing is there.
func (s *stream) pose() {
	if q := s.question; q != nil {
		s.question = nil
		s.askErr = q.flush()
	}
}

// unlessAsked returns err, the result of a read, or errUnasked.
func (s *stream) unlessAsked(err error) error {
	if s.question == nil {
		return err
	}
	s.question = nil
	return errUnasked
}

// pending reports whether a read of the idle stream would return at once: bytes nobody
// asked for, a FIN or an error. It reads nothing, but of TLS what is not content. Of TLS
// that runs on no socket it can't tell.
func (s *stream) pending() bool {
	if len(s.buffered()) > 0 {
		return true
	}
	if s.low == nil {
		return s.tls == nil && s.own.hasArrived() // of TLS it could be tickets
	}
	err := s.low.Control(s.probe)
	arrived := s.err != errWouldBlock
	if err != nil || arrived && (s.tls == nil || s.raw == nil) {
		return true
	}
	return s.tls != nil && s.pendingTLS(arrived)
}

// broken says, after a failed splice, whether it was this side that failed: a socket
// that was reset has nothing more to read.
func (s *stream) broken() bool { return s.pending() && s.err != nil }

// late reports whether the read deadline has passed. A timeout before that is an earlier one that the
// connection remembers: another deadline changes nothing.
func (s *stream) late() bool { return !s.readBy.IsZero() && !time.Now().Before(s.readBy) }

// overdue reports whether the write deadline has passed.
func (s *stream) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.writeEnd.IsZero() && !time.Now().Before(s.writeEnd)
}

// makeRoom sees to it that there is space behind the unread bytes.
func (s *stream) makeRoom(limit int) error {
	s.release()
	if s.buf == nil || s.w < len(s.buf) {
		return nil
	}
	if s.r > 0 {
		s.w = copy(s.buf, s.buf[s.r:s.w])
		s.r = 0
		return nil
	}
	if len(s.buf) >= limit {
		return errFull
	}
	grown := make([]byte, min(2*len(s.buf), max(limit, len(s.buf)+1)))
	copy(grown, s.buf[:s.w])
	giveBuffer(s.buf)
	s.buf = grown
	return nil
}

// peek waits until n bytes are buffered and returns all that are.
func (s *stream) peek(n int) ([]byte, error) {
	for len(s.buffered()) < n {
		if err := s.fill(max(n, bufferSize)); err != nil {
			return s.buffered(), err
		}
	}
	return s.buffered(), nil
}

// readHead returns a whole message head, line ends included, and consumes it; it stays
// valid until the next fill. A head of more than limit bytes is errHeadTooLarge.
func (s *stream) readHead(limit int) ([]byte, error) {
	for scanned := 0; ; {
		have := s.buffered()
		if n := headEnd(have, scanned); n > 0 && n <= limit {
			s.discard(n)
			return have[:n], nil
		}
		if len(have) >= limit {
			return nil, errHeadTooLarge
		}
		scanned = len(have)
		if err := s.fill(limit); err != nil {
			if err == io.EOF && len(have) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// Read implements io.Reader over the buffer.
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(s.buffered()) == 0 {
		if err := s.fill(bufferSize); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.buffered())
	s.discard(n)
	s.release()
	return n, nil
}

// readWithin lets reads take d from now; 0 or less is for ever. A deadline that is
// already about right is kept, since setting one costs more than comparing two.
func (s *stream) readWithin(d time.Duration) {
	by, change := deadline(s.readBy, d)
	if !change {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readBy, s.readEnd = by, by
	if !s.interrupted {
		s.nc.SetReadDeadline(by)
	}
}

// writeWithin is readWithin for writes.
func (s *stream) writeWithin(d time.Duration) {
	by, change := deadline(s.writeBy, d)
	if !change {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeBy, s.writeEnd = by, by
	if !s.hurried {
		s.nc.SetWriteDeadline(by)
	}
}

// putOffRead gives a read that may be under way until by, if it has a deadline that comes first. Any
// goroutine may call it.
func (s *stream) putOffRead(by time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.interrupted && !s.readEnd.IsZero() && s.readEnd.Before(by) {
		s.readEnd = by
		s.nc.SetReadDeadline(by)
	}
}

// putOffWrite is putOffRead for a write.
func (s *stream) putOffWrite(by time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.hurried && !s.writeEnd.IsZero() && s.writeEnd.Before(by) {
		s.writeEnd = by
		s.nc.SetWriteDeadline(by)
	}
}

func deadline(old time.Time, d time.Duration) (by time.Time, change bool) {
	if d <= 0 {
		return time.Time{}, !old.IsZero()
	}
	by = time.Now().Add(d)
	early := by.Sub(old)
	return by, early < 0 || early > d/16
}

// interrupt makes a read that another goroutine waits in return, and the ones after it;
// resume undoes it once that goroutine is out of the way.
func (s *stream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted = true
	s.nc.SetReadDeadline(past)
}

func (s *stream) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.interrupted, s.readBy, s.readEnd = false, time.Time{}, time.Time{}
	s.nc.SetReadDeadline(time.Time{})
}

// hurry gives a writer in another goroutine d to finish; calm undoes it.
func (s *stream) hurry(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried = true
	s.nc.SetWriteDeadline(time.Now().Add(d))
}

func (s *stream) calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hurried, s.writeBy, s.writeEnd = false, time.Time{}, time.Time{}
	s.nc.SetWriteDeadline(time.Time{})
}
