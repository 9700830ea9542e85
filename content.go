package mitm

import (
	"io"
	"sync"
)

// readerSource is content that a hook put in place, or the client's or origin's own if
// direct is set.
type readerSource struct {
	r       io.Reader
	direct  *body
	lent    sync.Locker // unlocked at the end; nil: direct is nobody's else
	buf     []byte
	n       int   // bytes read ahead into buf
	err     error // what followed them
	count   int64
	trailer func() []field
}

// giveBack ends what was lent.
func (s *readerSource) giveBack() {
	if s.lent != nil {
		s.lent.Unlock()
		s.lent = nil
	}
}

// done gives the buffer back and closes what was read from.
func (s *readerSource) done() {
	s.giveBack()
	if s.buf != nil {
		giveBuffer(s.buf)
		s.buf = nil
	}
	if c, ok := s.r.(io.Closer); ok {
		c.Close()
	}
}

func (s *readerSource) ready() bool {
	if s.direct != nil {
		return s.direct.ready()
	}
	return s.n > 0
}

// sent is the number of bytes that came from the source.
func (s *readerSource) sent() int64 {
	if s.direct != nil {
		return s.direct.count
	}
	return s.count
}

func (s *readerSource) wire() *body { return s.direct }

func (s *readerSource) trailerFields() []field {
	switch {
	case s.trailer != nil:
		return s.trailer()
	case s.direct != nil:
		return s.direct.trailerFields()
	}
	return nil
}

// next implements source.
func (s *readerSource) next() ([]byte, error) {
	if s.direct != nil {
		return s.direct.next()
	}
	if s.r == nil {
		return nil, io.EOF
	}
	if s.buf == nil {
		s.buf = takeBuffer()
	}
	for s.n == 0 {
		if s.err != nil {
			return nil, s.err
		}
		s.n, s.err = s.r.Read(s.buf)
	}
	p := s.buf[:s.n]
	s.n = 0
	s.count += int64(len(p))
	return p, nil
}

// readAhead fills the buffer and returns the length of the content if that was all.
func (s *readerSource) readAhead() (length int64, all bool, err error) {
	s.buf = takeBuffer()
	for s.err == nil && s.n < len(s.buf) {
		var n int
		n, s.err = s.r.Read(s.buf[s.n:])
		s.n += n
	}
	if s.err != nil && s.err != io.EOF {
		return 0, false, s.err
	}
	return int64(s.n), s.err == io.EOF, nil
}

// measure finds out the framing of content that a hook put in place: given is its
// ContentLength, old the one that the message came with (-1: none).
func (s *readerSource) measure(given, old int64) (framing, error) {
	if given > 0 && given != old {
		return framing{kind: knownLength, length: given}, nil
	}
	if given < 0 {
		return framing{kind: chunked}, nil
	}
	n, all, err := s.readAhead()
	if err != nil || !all {
		return framing{kind: chunked}, err
	}
	return framing{kind: knownLength, length: n}, nil
}

// contentLength is ContentLength as net/http has it.
func (f framing) contentLength() int64 {
	switch f.kind {
	case knownLength:
		return f.length
	case chunked, closeFramed:
		return -1
	}
	return 0
}
