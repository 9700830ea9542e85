package mitm

import (
	"context"
	"crypto/tls"
	"errors"
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

// startTLS is the client side of a handshake; nc is closed if it fails.
func (d *dialer) startTLS(ctx context.Context, nc net.Conn, serverName string) (net.Conn, error) {
	ctx, cancel := withTimeout(ctx, d.handshake)
	defer cancel()
	config := d.config.Clone() // shares the session cache and the roots
	if config.ServerName == "" {
		config.ServerName = serverName
	}
	config.NextProtos = []string{"http/1.1"}
	c := tls.Client(&tlsSocket{Conn: nc}, config)
	if err := c.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// maxHello is how much of a ClientHello is read. Those of today take 2 KiB.
const maxHello = 64 << 10

// peekServerName reads the ClientHello that s begins with, however it is cut into records
// and segments, and leaves it there. It returns "" if there is no name, or no hello, and an
// error if the connection broke.
func peekServerName(s *stream) (name string, err error) {
	stop := errors.New("the hello is all that is wanted")
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name = hello.ServerName
		return nil, stop
	}}
	hello := helloConn{Conn: s.nc, s: s}
	tls.Server(&hello, config).Handshake() // ends in stop, or a worse error
	return name, hello.gone
}

// helloConn reads ahead in a stream without consuming it, and swallows what is written:
// the alert of a handshake that is not meant to succeed.
type helloConn struct {
	net.Conn
	s    *stream
	at   int   // how much was read
	gone error // what broke the connection
}

// Read implements net.Conn.
func (c *helloConn) Read(p []byte) (int, error) {
	if c.at == len(c.s.buffered()) {
		if err := c.s.fill(maxHello); err != nil {
			if err != io.EOF && err != errFull && !isTimeout(err) {
				c.gone = err
			}
			return 0, err
		}
	}
	n := copy(p, c.s.buffered()[c.at:])
	c.at += n
	return n, nil
}

// Write implements net.Conn.
func (c *helloConn) Write(p []byte) (int, error) { return len(p), nil }
