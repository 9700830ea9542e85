package mitm_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"testing"

	"example.com/mitm"
)

// benchRedirected serves p in a namespace in which a rule leads every connection to it, and
// returns what connects there. The origin that p dials is outside.
func benchRedirected(b *testing.B, p *mitm.Proxy) (dial func() net.Conn) {
	skipUnless(b, os.Geteuid() == 0, "needs root")
	n := holdNamespace(b)
	n.run(b, "link set lo up\n", "ip", "-batch", "-")
	var l net.Listener
	var err error
	n.do(func() { l, err = mitm.Transparent{}.Listen("127.0.0.1:0") })
	if err != nil {
		b.Fatal(err)
	}
	n.run(b, fmt.Sprintf(`table inet bench {
		chain out {
			type nat hook output priority -100
			ip daddr 127.0.0.9 tcp dport 80-443 redirect to :%d
		}
	}
	`, l.Addr().(*net.TCPAddr).Port), "nft", "-f", "-")
	p.Mode = mitm.Transparent{}
	go p.Serve(l)
	b.Cleanup(func() { p.Close() })
	return func() net.Conn { return n.dial(b, "", "127.0.0.9:443").Conn }
}

// One small request after the other on a connection that the kernel redirected.
func BenchmarkTransparent(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		p := &mitm.Proxy{Dial: dialTo(fixedOrigin(b, headEnd, 128))}
		exchanges(b, benchRedirected(b, p)(), benchRequest("/path?query", "example.com"))
	})
	b.Run("tls", func(b *testing.B) {
		addr, originRoots := benchOrigin(b, 1)
		p, roots := interceptor(b, addr, originRoots)
		nc := tls.Client(benchRedirected(b, p)(), &tls.Config{ServerName: "example.com", RootCAs: roots})
		exchanges(b, nc, benchRequest("/path?query", "example.com"))
	})
}
