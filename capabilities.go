package mitm

import (
	"crypto/tls"
	"errors"
	"net"
)

// This file finds out what a connection can do besides what every net.Conn can.

// hasDeadlines reports whether the deadlines of nc are known to work. Only exact types count: a
// type that embeds one of them may have methods of its own. But a TLS library whose NetConn is what
// it was given for an origin can have no other deadlines than that.
func hasDeadlines(nc net.Conn) bool {
	switch nc := nc.(type) {
	case *net.TCPConn, *net.UnixConn, interface{ deadlinesWork() }:
		return true
	case *tls.Conn:
		return hasDeadlines(nc.NetConn())
	case interface{ NetConn() net.Conn }:
		_, ours := nc.NetConn().(*tlsSocket)
		return ours
	}
	return false
}

// errNoHalfClose is a connection of which the sending side can't be ended alone.
var errNoHalfClose = errors.New("the connection can't be half closed")

// halfCloseable can end its sending side.
type halfCloseable interface{ CloseWrite() error }

// halfCloser returns the layer of nc that can end its sending side, nil if there is none. Any layer
// below will do, unless nc is TLS, where such an end would not be an orderly one (RFC 8446, section
// 6.1).
func halfCloser(nc net.Conn) halfCloseable {
	for range maxLayers {
		if half, ok := nc.(halfCloseable); ok {
			return half
		}
		if _, isTLS := nc.(interface{ ConnectionState() tls.ConnectionState }); isTLS {
			return nil
		}
		if nc = unwrap(nc); nc == nil {
			return nil
		}
	}
	return nil
}

// maxLayers is how far connections are unwrapped.
const maxLayers = 16

// unwrap returns the connection that nc runs on, nil if nc does not tell.
func unwrap(nc net.Conn) net.Conn {
	if wrapper, ok := nc.(interface{ NetConn() net.Conn }); ok {
		return wrapper.NetConn()
	}
	return nil
}

// abort closes nc so that its peer sees an error, not an end, where nc has a way to show one.
func abort(nc net.Conn) error {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn() // without a close_notify, which would be an orderly end
	}
	under := nc
	for range maxLayers {
		if l, ok := under.(interface{ SetLinger(int) error }); ok {
			l.SetLinger(0)
			break
		}
		if under = unwrap(under); under == nil {
			break
		}
	}
	return nc.Close()
}
