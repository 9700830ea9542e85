package mitm

import (
	"errors"
	"time"
)

// This file ends streams.

// closeWrite passes a FIN on. With errNoHalfClose there is no way to do so but to close the
// connection, and with it the other direction.
func (s *stream) closeWrite() error {
	half := halfCloser(s.nc)
	if half == nil {
		return errNoHalfClose
	}
	err := half.CloseWrite()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, errNoHalfClose) {
		return errNoHalfClose
	}
	return err
}

// ignore declares that nothing that arrives matters any more: the connection ends after the next
// write. Otherwise a peer that writes, and reads only when it has finished, would not get what is
// written.
func (s *stream) ignore() {
	if p := s.pump(); p != nil {
		p.discard()
	}
}

const (
	// lingerTime and lingerBytes bound how long the rest of a request is read.
	lingerTime, lingerBytes = time.Second, 256 << 10
	// lingerPause is how long a peer may pause that can't be told that nothing more comes.
	lingerPause = 250 * time.Millisecond
)

// linger ends the connection after an answer to what may not have been read to its end, as
// far as close, which has to follow: without this, that would destroy the answer on its
// way (RFC 9112, section 9.6).
func (s *stream) linger() {
	wait := lingerTime
	switch s.closeWrite() {
	case nil:
	case errNoHalfClose:
		wait = lingerPause
	default:
		return
	}
	s.resume()
	end := time.Now().Add(lingerTime)
	for n, left := 0, lingerTime; n < lingerBytes && left > 0; left = time.Until(end) {
		n += len(s.buffered())
		s.discard(len(s.buffered()))
		s.readWithin(min(wait, left))
		if s.fill(bufferSize) != nil {
			return
		}
	}
}

// reset closes the connection so that the peer sees an error, not an end.
func (s *stream) reset() {
	s.endGuard()
	nc := s.nc
	if s.tls != nil {
		nc = s.tls.Conn // without a close_notify, which would be an orderly end
	}
	if p, ok := nc.(*pump); ok {
		p.abort()
		return
	}
	abort(nc)
}

// close closes the connection.
func (s *stream) close() error {
	s.endGuard()
	return s.nc.Close()
}

// endGuard ends the watch for loops, if it goes on still.
func (s *stream) endGuard() {
	s.mu.Lock()
	guard := s.guard
	if s.guard = nil; guard != nil {
		s.loop = s.loop || guard.isLoop()
	}
	s.mu.Unlock()
	if guard != nil {
		guard.done()
	}
}

// isLoop reports whether the connection has turned out to end at the proxy itself.
func (s *stream) isLoop() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loop || s.guard.isLoop()
}

// drop gives the buffer back with whatever is in it. The stream is not read again.
func (s *stream) drop() {
	s.r = s.w
	s.release()
}
