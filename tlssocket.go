package mitm

import (
	"cmp"
	"crypto/tls"
	"io"
	"net"
)

// tlsSocket is what a TLS connection runs on. It remembers whether it came to its end:
// crypto/tls reports that like a close_notify, but only the latter says that nothing was
// cut off (RFC 9112, section 9.8).
//
// It also follows the records, so that it can be told whether part of one was read.
type tlsSocket struct {
	net.Conn
	out    *socketWriter // to Conn
	before *stream       // what was read from Conn already; nil: nothing, or no more
	held   bool          // it is not known yet whether TLS is to be spoken, see accept
	at     int           // how much of before was read while held
	gone   error         // what broke the connection while held
	unsent []byte        // what crypto/tls would have written while held: an alert

	tries   bool   // reads return what was fetched, and do not wait for more
	buf     []byte // pooled; nil while nothing is fetched
	fetched []byte // of buf, what was not read
	failure error  // what came instead

	records, reads int  // see dry
	asked          bool // crypto/tls wanted more than there was

	broken bool // a later handshake was interrupted, see renegotiatingConn

	ended  bool
	header []byte // of the record that is being read, as far as it came
	left   int    // bytes of the record behind the header
	alert  []byte // what came of a plaintext alert; nil: the record is something else
}

// newTLSSocket makes s, with what it has buffered, the ground of a TLS connection.
func newTLSSocket(s *stream) *tlsSocket { return &tlsSocket{Conn: s.nc, out: s.out, before: s} }

// holdTLS is newTLSSocket for a handshake that may not be meant to succeed: until accept,
// nothing is consumed, and nothing, not even an alert, is written.
func holdTLS(s *stream) *tlsSocket { return &tlsSocket{Conn: s.nc, out: s.out, before: s, held: true} }

// accept makes a held socket a normal one.
func (s *tlsSocket) accept() {
	s.held = false
	s.before.discard(s.at)
	s.before.release()
}

func (*tlsSocket) deadlinesWork() {}

// Read implements net.Conn.
func (s *tlsSocket) Read(p []byte) (n int, err error) {
	s.records, s.reads = 0, 0 // crypto/tls asks for more when it has used all
	switch {
	case s.held:
		n, err = s.readAhead(p)
	case s.before != nil && len(s.before.buffered()) > 0:
		n, err = s.before.Read(p)
	case s.tries:
		n, err = s.readFetched(p)
	default:
		s.before = nil
		n, err = s.Conn.Read(p)
	}
	s.ended = s.ended || err == io.EOF
	s.follow(p[:n])
	return n, err
}

// fetch reads what is there; false if that is nothing.
func (s *tlsSocket) fetch(fd uintptr) bool {
	if s.failure != nil {
		return true
	}
	s.buf = takeBuffer()
	n, err := readSocket(fd, s.buf)
	if n > 0 {
		s.fetched, s.asked = s.buf[:n], false
		return true
	}
	s.giveBack()
	if err == errWouldBlock {
		return false
	}
	s.failure, s.asked = cmp.Or(err, io.EOF), false
	return true
}

func (s *tlsSocket) giveBack() {
	giveBuffer(s.buf)
	s.buf, s.fetched = nil, nil
}

// readFetched returns errNotYet after what was fetched; crypto/tls can go on after that.
func (s *tlsSocket) readFetched(p []byte) (int, error) {
	if len(s.fetched) == 0 {
		return 0, cmp.Or(s.failure, error(errNotYet))
	}
	n := copy(p, s.fetched)
	if s.fetched = s.fetched[n:]; len(s.fetched) == 0 {
		s.giveBack()
	}
	return n, nil
}

// dry reports whether crypto/tls has nothing that it could return before more is fetched, so that
// it need not be asked, which costs memory. Each read that it answers takes one record at
// least, and it asks for more only when all of them are used up.
func (s *tlsSocket) dry() bool {
	if s.asked {
		return true
	}
	waiting := s.before != nil && len(s.before.buffered()) > 0
	return s.reads >= s.records && len(s.fetched) == 0 && !waiting && !s.inRecord()
}

// untouched reports whether crypto/tls was asked and took nothing of what was fetched.
func (s *tlsSocket) untouched() bool { return len(s.fetched) > 0 || s.failure != nil }

// answered notes a read by way of crypto/tls that returned n of at most room bytes.
func (s *tlsSocket) answered(n, room int, err error) {
	s.asked = err == errNotYet
	if s.reads++; n == room { // there may be more of the record
		s.reads = -1
	}
}

// errNotYet is a net.Error.
var errNotYet = &net.OpError{Op: "read", Err: notYet{}}

type notYet struct{}

// Error implements error.
func (notYet) Error() string { return "nothing there yet" }

// Timeout makes errNotYet one that does not last.
func (notYet) Timeout() bool { return true }

// Temporary does so for crypto/tls.
func (notYet) Temporary() bool { return true }

// maxHello is how much of a ClientHello is read. Those of today take 2 KiB.
const maxHello = 64 << 10

// readAhead leaves what it reads where it is.
func (s *tlsSocket) readAhead(p []byte) (int, error) {
	if s.at == len(s.before.buffered()) {
		if err := s.before.fill(maxHello); err != nil {
			if err != io.EOF && err != errFull && !isTimeout(err) {
				s.gone = err
			}
			return 0, err
		}
	}
	n := copy(p, s.before.buffered()[s.at:])
	s.at += n
	return n, nil
}

// Write implements net.Conn.
func (s *tlsSocket) Write(p []byte) (int, error) {
	if s.held {
		s.unsent = append(s.unsent, p...)
		return len(p), nil
	}
	return s.out.Write(p)
}

// follow goes through records of a 5-byte header, which ends in the length of the rest
// (RFC 8446, section 5.1).
func (s *tlsSocket) follow(b []byte) {
	const headerSize = 5
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			if s.alert != nil {
				s.alert = append(s.alert, b[:n]...)
			}
			if s.left, b = s.left-n, b[n:]; s.left == 0 {
				s.records++
			}
			continue
		}
		n := min(headerSize-len(s.header), len(b))
		s.header, b = append(s.header, b[:n]...), b[n:]
		if len(s.header) == headerSize {
			if s.left = int(s.header[3])<<8 | int(s.header[4]); s.left == 0 {
				s.records++
			}
			s.alert = nil
			if s.header[0] == recordAlert && s.left == alertSize {
				s.alert = make([]byte, 0, alertSize)
			}
			s.header = s.header[:0]
		}
	}
}

// recordAlert is the type of records with alerts, and alertSize what one takes that is not
// encrypted (RFC 8446, sections 5.1 and 6).
const recordAlert, alertSize = 21, 2

// explain returns err, or the plaintext alert that may have caused it. In TLS 1.3 OpenSSL refuses a
// certificate by an unencrypted alert, because it does not encrypt yet; crypto/tls reports that as
// a bad record.
func (s *tlsSocket) explain(err error) error {
	if len(s.alert) < alertSize {
		return err
	}
	if s.alert[1] == 0 { // close_notify
		return io.EOF
	}
	return &net.OpError{Op: "remote error", Err: tls.AlertError(s.alert[1])}
}

// inRecord reports whether the rest of a record is still to come.
func (s *tlsSocket) inRecord() bool { return s.left > 0 || len(s.header) > 0 }
