package mitm

import (
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
	ended  bool
	header []byte // of the record that is being read, as far as it came
	left   int    // bytes of the record behind the header
}

// Read implements net.Conn.
func (s *tlsSocket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.ended = s.ended || err == io.EOF
	s.follow(p[:n])
	return n, err
}

// follow goes through records of a 5-byte header, which ends in the length of the rest
// (RFC 8446, section 5.1).
func (s *tlsSocket) follow(b []byte) {
	const headerSize = 5
	for len(b) > 0 {
		if s.left > 0 {
			n := min(s.left, len(b))
			s.left, b = s.left-n, b[n:]
			continue
		}
		n := min(headerSize-len(s.header), len(b))
		s.header, b = append(s.header, b[:n]...), b[n:]
		if len(s.header) == headerSize {
			s.left = int(s.header[3])<<8 | int(s.header[4])
			s.header = s.header[:0]
		}
	}
}

// inRecord says whether the rest of a record is still to come.
func (s *tlsSocket) inRecord() bool { return s.left > 0 || len(s.header) > 0 }
