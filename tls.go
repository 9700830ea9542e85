package mitm

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
)

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
