package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"example.com/mitm"
)

// tlsOrigin is an origin that speaks TLS with a certificate for example.com and 127.0.0.1,
// and runs serve for each connection whose handshake succeeds. What wrap returns, if it is
// not nil, carries the TLS.
func tlsOrigin(t *testing.T, config *tls.Config, serve func(c *tls.Conn), wrap func(net.Conn) net.Conn) (addr string, roots *x509.CertPool) {
	t.Helper()
	donor := httptest.NewTLSServer(nil) // has a certificate
	donor.Close()
	config.Certificates = donor.TLS.Certificates
	addr = origin(t, func(c *peer) {
		nc := c.Conn
		if wrap != nil {
			nc = wrap(nc)
		}
		tc := tls.Server(nc, config)
		if tc.Handshake() == nil {
			serve(tc)
		}
	})
	roots = x509.NewCertPool()
	roots.AddCert(donor.Certificate())
	return addr, roots
}

// answerTLS reads one head and answers.
func answerTLS(c *tls.Conn, response string) {
	io.ReadAtLeast(c, make([]byte, 4096), 16)
	io.WriteString(c, response)
}

func reverseTLS(p *mitm.Proxy, host, addr string, roots *x509.CertPool) {
	_, port, _ := net.SplitHostPort(addr)
	p.Mode = mitm.Reverse{Target: &url.URL{Scheme: "https", Host: net.JoinHostPort(host, port)}}
	p.OriginTLS = &tls.Config{RootCAs: roots}
	p.Dial = dialTo(addr)
}

// dialTo dials addr, whatever is asked for.
func dialTo(addr string) mitm.DialFunc {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// A response over TLS that ends with its connection is complete only if TLS says so.
func TestR27_CloseNotify(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, complete := range []bool{true, false} {
			addr, roots := tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) {
				answerTLS(c, "HTTP/1.1 200 OK\r\n\r\nall?")
				if complete {
					c.Close() // sends close_notify
				} else {
					c.NetConn().(*net.TCPConn).CloseWrite()
				}
			}, nil)
			q := &mitm.Proxy{Hooks: p.Hooks}
			reverseTLS(q, "example.com", addr, roots)
			c := dial(t, start(t, q))
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			c.head()
			if _, err := c.rest(); (err == nil) != complete {
				t.Errorf("complete %v: the client's connection ended with %v", complete, err)
			}
		}
	})
}

// An origin that can't be verified gets no byte of the request.
func TestR44_Unverified(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for name, wrong := range map[string]func(q *mitm.Proxy, addr string, roots *x509.CertPool){
			"unknown authority": func(q *mitm.Proxy, addr string, _ *x509.CertPool) {
				reverseTLS(q, "example.com", addr, x509.NewCertPool())
			},
			"other name": func(q *mitm.Proxy, addr string, roots *x509.CertPool) {
				reverseTLS(q, "other.test", addr, roots)
			},
			"other address": func(q *mitm.Proxy, addr string, roots *x509.CertPool) {
				reverseTLS(q, "127.0.0.9", addr, roots)
			},
		} {
			got := make(chan int, 1)
			addr, roots := tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) {
				n, _ := c.Read(make([]byte, 1))
				got <- n
			}, nil)
			q := &mitm.Proxy{Hooks: p.Hooks}
			wrong(q, addr, roots)
			c := dial(t, start(t, q))
			c.send("GET /secret HTTP/1.1\r\nHost: x\r\n\r\n")
			c.wantStatus(http.StatusBadGateway)
			select {
			case n := <-got:
				if n > 0 {
					t.Errorf("%s: the origin got a byte", name)
				}
			default:
			}
		}
	})
}

// The server name is the host; there is none for an IP address.
func TestR46_ServerName(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for host, want := range map[string]string{"example.com": "example.com", "127.0.0.1": ""} {
			names := make(chan string, 1)
			config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
				names <- hello.ServerName
				return nil, nil
			}}
			addr, roots := tlsOrigin(t, config, func(c *tls.Conn) { answerTLS(c, ok200) }, nil)
			q := &mitm.Proxy{Hooks: p.Hooks}
			reverseTLS(q, host, addr, roots)
			c := dial(t, start(t, q))
			c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			c.wantStatus(http.StatusOK)
			if got := <-names; got != want {
				t.Errorf("%s: server name %q, want %q", host, got, want)
			}
		}
	})
}

// TLS 1.1 is refused on the way to the origin.
func TestR49_OldVersion(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		old := &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
		addr, roots := tlsOrigin(t, old, func(c *tls.Conn) { answerTLS(c, ok200) }, nil)
		reverseTLS(p, "example.com", addr, roots)
		c := dial(t, start(t, p))
		c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantStatus(http.StatusBadGateway)
	})
}
