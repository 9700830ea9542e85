package mitm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
)

// interception is a proxy with a CA and how to get to it.
type interception struct {
	t     *testing.T
	proxy *mitm.Proxy
	roots *x509.CertPool
	open  func() net.Conn // a connection to the proxy
}

// intercept starts p with a CA. Whatever is dialled is the origin at addr.
func intercept(t *testing.T, p *mitm.Proxy, addr string, originRoots *x509.CertPool) *interception {
	return interceptBy(t, p, dialTo(addr), originRoots)
}

// interceptBy is intercept for an origin that dialer connects to.
func interceptBy(t *testing.T, p *mitm.Proxy, dialer mitm.DialFunc, originRoots *x509.CertPool) *interception {
	i := newInterception(t, p, originRoots)
	p.Dial = dialer
	proxy := start(t, p)
	i.open = func() net.Conn { return dial(t, proxy).Conn }
	return i
}

func newInterception(t *testing.T, p *mitm.Proxy, originRoots *x509.CertPool) *interception {
	var err error
	if p.CA, err = mitm.NewCA("test"); err != nil {
		t.Fatal(err)
	}
	p.OriginTLS = &tls.Config{RootCAs: originRoots}
	roots := x509.NewCertPool()
	roots.AddCert(p.CA.Certificate())
	return &interception{t: t, proxy: p, roots: roots}
}

// inMemoryTLS is intercept inside a synctest bubble, with an origin that speaks TLS.
func inMemoryTLS(t *testing.T, p *mitm.Proxy, config *tls.Config, serve func(c *tls.Conn)) *interception {
	cert, roots := exampleCert()
	config.Certificates = []tls.Certificate{cert}
	i := newInterception(t, p, roots)
	l := newMemListener()
	p.Dial = l.Dial
	var running sync.WaitGroup
	l.serve(&running, func(nc net.Conn) {
		if tc := tls.Server(nc, config); tc.Handshake() == nil {
			serve(tc)
		}
	})
	t.Cleanup(func() {
		p.Close()
		l.Close()
		running.Wait()
	})
	i.open = func() net.Conn {
		client, server := memPipe()
		running.Go(func() { p.ServeConn(context.Background(), server) })
		t.Cleanup(func() { client.Close() })
		return client
	}
	return i
}

// exampleCert is a certificate for example.com, and what it is verified by.
func exampleCert() (tls.Certificate, *x509.CertPool) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return donor.TLS.Certificates[0], roots
}

// tls connects to example.com through the proxy and speaks TLS inside.
func (i *interception) tls(protos ...string) *tls.Conn {
	i.t.Helper()
	p := &peer{Conn: i.open(), t: i.t}
	tunnel(p, "example.com:443")
	tc := tls.Client(p.Conn, &tls.Config{ServerName: "example.com", RootCAs: i.roots, NextProtos: protos})
	if err := tc.Handshake(); err != nil {
		i.t.Fatalf("handshake: %v", err)
	}
	return tc
}

// h2 connects with HTTP/2, and nothing else on offer: the origin may speak HTTP/1.
func (i *interception) h2(settings ...uint32) *h2peer {
	i.t.Helper()
	tc := i.tls("h2")
	if got := tc.ConnectionState().NegotiatedProtocol; got != "h2" {
		i.t.Fatalf("the proxy chose %q", got)
	}
	return newH2Peer(i.t, tc, true, settings...)
}

// tunnel asks for a tunnel to addr; nothing is read beyond the response's head.
func tunnel(p *peer, addr string) {
	p.t.Helper()
	io.WriteString(p.Conn, "CONNECT "+addr+" HTTP/1.1\r\nHost: "+addr+"\r\n\r\n")
	var head []byte
	for b := make([]byte, 1); !bytes.HasSuffix(head, []byte("\r\n\r\n")); head = append(head, b[0]) {
		if _, err := p.Conn.Read(b); err != nil {
			p.t.Fatalf("CONNECT: %v after %q", err, head)
		}
	}
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		p.t.Fatalf("CONNECT: %q", head)
	}
}

// h2Origin is an origin that speaks HTTP/2, for example.com. serve has each connection.
func h2Origin(t *testing.T, serve func(c *h2peer), settings ...uint32) (addr string, roots *x509.CertPool) {
	return tlsOrigin(t, &tls.Config{NextProtos: []string{"h2"}}, func(c *tls.Conn) {
		c.SetDeadline(time.Now().Add(patience))
		serve(newH2Peer(t, c, false, settings...))
	}, nil)
}

// h1Origin is an origin that speaks HTTP/1.1, for example.com, to clients of either version:
// it has no ALPN.
func h1Origin(t *testing.T, serve func(c *peer)) (addr string, roots *x509.CertPool) {
	return tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) { serve(newPeer(t, c)) }, nil)
}
