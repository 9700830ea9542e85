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

// A field that was announced as a trailer but came in the header is none.
func TestHTTP2_HeaderIsNoTrailer(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Late\r\nX-Sum: early\r\n\r\n3\r\nabc\r\n0\r\n"
	for name, last := range map[string]string{"none comes": "", "another comes": "X-Late: 1\r\n", "it comes too": "X-Sum: late\r\n"} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
				addr, roots := h1Origin(t, func(c *peer) {
					c.tryHead()
					c.send(head + last + "\r\n")
					c.rest()
				})
				if version == 2 {
					addr, roots = h2Origin(t, func(c *h2peer) {
						for s := c.accept(); s != nil; s = c.accept() {
							c.headers(s.id, false, ":status", "200", "trailer", "x-sum, x-late", "x-sum", "early")
							if c.data(s.id, last == "", "abc"); last != "" {
								f := parseFields(last)[0]
								c.headers(s.id, true, f.Name, f.Value)
							}
						}
					})
				}
				c := intercept(t, p, addr, roots).h2()
				s := c.get()
				c.want(s, "200")
				if got := parseFields(last); len(s.trailer) != len(got) || len(got) > 0 && s.trailer[0] != got[0] || valueOf(s.head, "x-sum") != "early" {
					t.Errorf("header %v, trailer %v", s.head, s.trailer)
				}
			})
		})
	}
}
