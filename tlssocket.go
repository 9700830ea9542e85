package mitm

import (
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
	before *stream // what was read from Conn already; nil: nothing, or no more
	held   bool    // it is not known yet whether TLS is to be spoken, see accept
	at     int     // how much of before was read while held
	gone   error   // what broke the connection while held
	try    bool    // reads do not wait, and are from fd
	fd     uintptr

	ended  bool
	header []byte // of the record that is being read, as far as it came
	left   int    // bytes of the record behind the header
	alert  []byte // what came of an alert in the clear; nil: the record is something else
}

// newTLSSocket makes s, with what it has buffered, the ground of a TLS connection.
func newTLSSocket(s *stream) *tlsSocket { return &tlsSocket{Conn: s.nc, before: s} }

// holdTLS is newTLSSocket for a handshake that may not be meant to succeed: until accept,
// nothing is consumed, and nothing, not even an alert, is written.
func holdTLS(s *stream) *tlsSocket { return &tlsSocket{Conn: s.nc, before: s, held: true} }

// accept makes a held socket a normal one.
func (s *tlsSocket) accept() {
	s.held = false
	s.before.discard(s.at)
	s.before.release()
}

// Read implements net.Conn.
func (s *tlsSocket) Read(p []byte) (n int, err error) {
	switch {
	case s.held:
		n, err = s.readAhead(p)
	case s.before != nil && len(s.before.buffered()) > 0:
		n, err = s.before.Read(p)
	case s.try:
		n, err = s.readNow(p)
	default:
		s.before = nil
		n, err = s.Conn.Read(p)
	}
	s.ended = s.ended || err == io.EOF
	s.follow(p[:n])
	return n, err
}

// readNow reads what is there. crypto/tls can go on after errNotYet.
func (s *tlsSocket) readNow(p []byte) (int, error) {
	n, err := readSocket(s.fd, p)
	switch {
	case err == errWouldBlock:
		return 0, errNotYet
	case n == 0 && err == nil:
		return 0, io.EOF
	}
	return max(n, 0), err
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
		return len(p), nil
	}
	return s.Conn.Write(p)
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
			s.left, b = s.left-n, b[n:]
			continue
		}
		n := min(headerSize-len(s.header), len(b))
		s.header, b = append(s.header, b[:n]...), b[n:]
		if len(s.header) == headerSize {
			s.left = int(s.header[3])<<8 | int(s.header[4])
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

// explain returns err, or the alert that came in the clear and may be behind it. In TLS 1.3
// OpenSSL says so that it does not accept a certificate, because it does not encrypt yet;
// crypto/tls takes that for a broken record.
func (s *tlsSocket) explain(err error) error {
	if len(s.alert) < alertSize {
		return err
	}
	return &net.OpError{Op: "remote error", Err: tls.AlertError(s.alert[1])}
}

// inRecord says whether the rest of a record is still to come.
func (s *tlsSocket) inRecord() bool { return s.left > 0 || len(s.header) > 0 }

// helloSize returns how many bytes the records take in which b has its first handshake
// message (RFC 8446, sections 4 and 5.1).
func helloSize(b []byte) int {
	const recordHeader, messageHeader = 5, 4
	var message []byte
	for at := 0; at+recordHeader <= len(b); {
		end := at + recordHeader + int(b[at+3])<<8 + int(b[at+4])
		if end > len(b) {
			break
		}
		message = append(message, b[at+recordHeader:end]...)
		if len(message) >= messageHeader &&
			len(message) >= messageHeader+int(message[1])<<16+int(message[2])<<8+int(message[3]) {
			return end
		}
		at = end
	}
	return len(b)
}
