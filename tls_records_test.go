package mitm_test

import (
	"crypto/tls"
	"io"
	"net"
	"testing"

	"example.com/mitm"
)

// bytewise writes byte by byte, so that TLS records come in many pieces.
type bytewise struct{ net.Conn }

func (c bytewise) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var one int
		one, err = c.Conn.Write(p[n : n+1])
		n += one
	}
	return n, err
}

// Records may come in any pieces, on either leg, and several of them at once.
func TestTLSRecordsInPieces(t *testing.T) {
	const requests, request = 3, "GET /x HTTP/1.1\r\nHost: example.com\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, roots := tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) {
			for in := newPeer(t, c); ; {
				if _, err := in.tryHead(); err != nil {
					return
				}
				c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"))
				c.Write([]byte("cd")) // a record of its own
			}
		}, func(nc net.Conn) net.Conn { return bytewise{nc} })
		i := intercept(t, p, addr, roots)
		open := i.open
		i.open = func() net.Conn { return bytewise{open()} }
		c := newPeer(t, i.tls("http/1.1"))
		for range requests {
			c.send(request[:7])
			c.send(request[7:])
			if res, got := c.response("GET"); res.StatusCode != 200 || got != "abcd" {
				t.Errorf("%s %q", res.Status, got)
			}
		}
		raw := open()
		tunnel(&peer{Conn: raw, t: t}, "example.com:443")
		together := &gathering{Conn: raw}
		nc := tls.Client(together, &tls.Config{ServerName: "example.com", RootCAs: i.roots})
		c = newPeer(t, nc)
		nc.Handshake()
		together.hold = true
		for range requests { // as many records in one segment
			io.WriteString(nc, request)
		}
		raw.Write(together.held)
		for range requests {
			if res, got := c.response("GET"); res.StatusCode != 200 || got != "abcd" {
				t.Errorf("%s %q", res.Status, got)
			}
		}
		raw.Close()
	})
}

// gathering keeps what is written while it holds.
type gathering struct {
	net.Conn
	hold bool
	held []byte
}

func (c *gathering) Write(p []byte) (int, error) {
	if !c.hold {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}
