package mitm_test

import (
	"crypto/tls"
	"testing"

	"example.com/mitm"
)

// Fields that may not be trailers can't be announced to net/http. They don't come either, and the
// others do.
func TestHTTP1Client_ForbiddenTrailer(t *testing.T) {
	cert, _ := exampleCert()
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
	seen := make(chan gotRequest, 8)
	addr, roots := tlsOrigin(t, onlyHTTP2(config), func(tc *tls.Conn) { newH2Peer(t, tc, false).serveAll(seen) }, nil)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		i := intercept(t, p, addr, roots)
		for _, name := range []string{"Content-Length", "Transfer-Encoding", "Trailer", "Host", "X-Other"} {
			c := newPeer(t, i.tls("http/1.1"))
			c.send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: " + name + ", X-Sum\r\n\r\n" +
				"3\r\nabc\r\n0\r\n" + name + ": 3\r\nX-Sum: 1\r\n\r\n")
			if res, body := c.response("POST"); res.StatusCode != 200 {
				t.Errorf("%s: %s %q", name, res.Status, body)
				continue
			}
			n := 1
			if name == "X-Other" {
				n = 2
			}
			if got := receive(t, seen); len(got.trailer) != n || valueOf(got.trailer, "x-sum") != "1" {
				t.Errorf("%s: trailer %v", name, got.trailer)
			}
		}
	})
}
