package mitm_test

import (
	"context"
	"net"
	"syscall"
	"testing"

	"example.com/mitm"
)

// dialFrom connects from an address that other sockets may have too.
func dialFrom(ctx context.Context, local net.Addr, addr string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: local, Control: func(_, _ string, raw syscall.RawConn) (err error) {
		raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) })
		return err
	}}
	return d.DialContext(ctx, "tcp", addr)
}

// A client on the proxy's machine may have a port from which the proxy dials as well. That is no
// loop, whichever of the two was first.
func TestTransparentSamePort(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		anyPort, sources := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, make(chan net.Addr, 1)
		p.Mode = mitm.Transparent{Lookup: lookup(addr)}
		p.Dial = func(ctx context.Context, _, addr string) (net.Conn, error) { return dialFrom(ctx, <-sources, addr) }
		proxy := start(t, p)
		open := func(local net.Addr) *peer {
			nc, err := dialFrom(t.Context(), local, proxy)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { nc.Close() })
			nc.(*net.TCPConn).SetLinger(0) // or nobody could have the port soon
			return newPeer(t, nc)
		}
		get := func(c *peer) {
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			c.wantStatus(200)
		}
		first := open(anyPort)
		sources <- first.LocalAddr()
		get(first)
		first.Close()
		second := open(first.LocalAddr()) // while that connection to the origin is in the pool
		sources <- anyPort
		get(second)
	})
}
