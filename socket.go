package mitm

import (
	"cmp"
	"net"
	"syscall"
)

// rawConn returns the descriptor of a plain socket. Only the exact types count: a
// type that embeds one may have methods of its own, which must not be bypassed.
func rawConn(nc net.Conn) syscall.RawConn {
	if !canWaitUnbuffered {
		return nil
	}
	switch nc := nc.(type) {
	case *net.TCPConn:
		raw, _ := nc.SyscallConn()
		return raw
	case *net.UnixConn:
		raw, _ := nc.SyscallConn()
		return raw
	}
	return nil
}

// socketWriter writes to a connection, to its socket if it is one. Two goroutines must not
// write at once.
type socketWriter struct {
	nc    net.Conn
	raw   syscall.RawConn       // nil: nc is no plain socket
	ready func(fd uintptr) bool // made once
	rest  []byte
	err   error
}

func newSocketWriter(nc net.Conn, raw syscall.RawConn) *socketWriter {
	w := &socketWriter{nc: nc, raw: raw}
	w.ready = w.writeReady
	return w
}

// Write implements io.Writer.
func (w *socketWriter) Write(p []byte) (int, error) {
	if w.raw == nil || len(p) > bufferSize {
		return w.nc.Write(p)
	}
	w.rest, w.err = p, nil
	err := w.raw.Write(w.ready)
	n := len(p) - len(w.rest)
	w.rest = nil
	return n, cmp.Or(err, w.err)
}

// writeReady is what a RawConn calls when the socket may be writable.
func (w *socketWriter) writeReady(fd uintptr) bool {
	for len(w.rest) > 0 && w.err == nil {
		var n int
		if n, w.err = writeSocket(fd, w.rest); w.err == errWouldBlock {
			w.err = nil
			return false
		}
		w.rest = w.rest[n:]
	}
	return true
}
