package mitm

import (
	"crypto/tls"
	"errors"
	"net"
)

// This file is what a stream does differently where it runs on TLS.

// newTLSStream returns a stream over TLS that runs on socket.
func newTLSStream(nc net.Conn, socket *tlsSocket) *stream {
	s := newStream(nc)
	s.tls, s.low = socket, rawConn(socket.Conn)
	if s.own != nil { // which may have read what the socket knows nothing of
		s.low = nil
	}
	if _, ok := nc.(*tls.Conn); ok && s.low != nil {
		s.raw, s.readable = s.low, s.readTLS
	}
	return s
}

// readTLS is readReady for TLS: of records that are not complete nothing is there yet.
func (s *stream) readTLS(fd uintptr) bool {
	for {
		if s.err = errNotYet; s.tls.dry() && !s.tls.fetch(fd) {
			if s.question != nil && s.tls.inRecord() {
				s.err = s.unlessAsked(nil)
				return true
			}
			s.pose()
			return false
		}
		s.takeIfNone()
		room := len(s.buf) - s.w
		s.tls.tries = true
		n, err := s.nc.Read(s.buf[s.w:])
		s.tls.tries = false
		s.tls.answered(n, room, err)
		s.w += n
		if err == errNotYet && s.tls.untouched() {
			err = errRemembered // to try again would go on for ever
		}
		if s.err = err; n > 0 {
			s.err = nil // an error with bytes comes again without them
		}
		s.release()
		if s.err != errNotYet {
			s.err = s.unlessAsked(s.err)
			return true
		}
	}
}

// pendingTLS looks for what was not yet decrypted, on the socket too if something has arrived: it
// may be tickets, which come after the handshake (RFC 8446, section 4.6.1) and are not content.
func (s *stream) pendingTLS(arrived bool) bool {
	if s.tls.inRecord() {
		return true
	}
	if s.raw != nil {
		if !arrived && s.tls.dry() {
			return false
		}
		err := s.raw.Control(func(fd uintptr) { s.readTLS(fd) })
		return err != nil || s.err != errNotYet || s.tls.inRecord()
	}
	s.interrupt() // whole records are returned all the same
	defer s.resume()
	return !isTimeout(s.fill(bufferSize)) || s.tls.broken
}

// errRemembered ends a connection from which crypto/tls reads no more because it returns an earlier
// error.
var errRemembered = errors.New("tls: a handshake was interrupted")

// renegotiatingConn is a tls.Conn that may do another handshake within a Read. In a handshake
// crypto/tls remembers every error for good, even that of a deadline, or errNotYet. So a stream
// reads from it as from any connection that is no socket: it waits in Read.
type renegotiatingConn struct {
	*tls.Conn
	socket *tlsSocket
}

// Read implements net.Conn.
func (c renegotiatingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.socket.broken = isTimeout(err) && !c.ConnectionState().HandshakeComplete
	return n, err
}
