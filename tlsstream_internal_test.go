package mitm

import (
	"io"
	"net"
	"os"
	"testing"
)

// rememberingConn is a TLS connection that remembers the first error of its socket.
type rememberingConn struct {
	net.Conn
	err error
}

func (c *rememberingConn) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.Conn.Read(p)
	c.err = err
	return n, err
}

// A read of a connection that remembers that there was nothing to read ends when something is there.
func TestR64_RememberedError(t *testing.T) {
	if !canWaitUnbuffered {
		t.Skip("every read waits")
	}
	for name, then := range map[string]func(nc *net.TCPConn){
		"bytes": func(nc *net.TCPConn) { io.WriteString(nc, "\x17\x03\x03\x00\x01x") },
		"end":   func(nc *net.TCPConn) { nc.CloseWrite() },
		"reset": func(nc *net.TCPConn) { nc.SetLinger(0); nc.Close() },
	} {
		for _, pending := range []bool{false, true} {
			near, far := tcpPair(t)
			socket := newTLSSocket(newStream(near))
			s := &stream{nc: &rememberingConn{Conn: socket}, tls: socket, low: rawConn(near), raw: rawConn(near), out: newSocketWriter(near, nil)}
			s.readable, s.probe = s.readTLS, s.pollSocket
			socket.tries = true
			s.nc.Read(make([]byte, 1))
			socket.tries = false
			then(far)
			var err error
			if pending {
				s.raw.Read(func(fd uintptr) bool {
					s.probe(fd)
					return s.err != errWouldBlock
				})
				if !s.pending() {
					t.Errorf("%s: nothing is there", name)
				}
				err = s.err
			} else {
				err = s.fill(bufferSize)
			}
			if err == nil || err == errNotYet || os.IsTimeout(err) {
				t.Errorf("%s, pending %v: %v", name, pending, err)
			}
			if socket.buf != nil {
				socket.giveBack()
			}
		}
	}
}

// tcpPair returns both ends of a connection.
func tcpPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); accepted.Close() })
	return nc.(*net.TCPConn), accepted.(*net.TCPConn)
}
