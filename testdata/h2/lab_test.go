// Package h2 proves with other people's HTTP/2 implementations that the proxy passes what
// they say: grpc-go as client and as origin, and h2spec as a client that does everything
// wrong.
package h2

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"example.com/mitm"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// startProxy serves p on a free port of loopback.
func startProxy(t *testing.T, p *mitm.Proxy) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
	return l.Addr().String()
}

// newCA is an authority and what trusts it.
func newCA(t *testing.T) (*mitm.CA, *x509.CertPool) {
	t.Helper()
	ca, err := mitm.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	return ca, roots
}

// exampleCert is a certificate for example.com and 127.0.0.1, and what it is verified by.
func exampleCert() (tls.Certificate, *x509.CertPool) {
	donor := httptest.NewTLSServer(nil)
	donor.Close()
	roots := x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return donor.TLS.Certificates[0], roots
}

// dialTo dials addr, whatever is asked for.
func dialTo(addr string) mitm.DialFunc {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// throughProxy dials by CONNECT.
func throughProxy(proxy string) func(ctx context.Context, addr string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		nc, err := new(net.Dialer).DialContext(ctx, "tcp", proxy)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(nc, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr)
		r := bufio.NewReader(nc)
		res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		if err != nil {
			nc.Close()
			return nil, err
		}
		return bufferedConn{nc, r}, nil
	}
}

// bufferedConn keeps what came together with the answer to CONNECT.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read implements net.Conn.
func (c bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// receive returns the next value of a channel, or fails the test.
func receive[T any](t *testing.T, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %T comes", v)
	}
	return v
}
