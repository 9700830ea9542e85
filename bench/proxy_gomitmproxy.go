package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/lqqyt2423/go-mitmproxy/cert"
	gomitmproxy "github.com/lqqyt2423/go-mitmproxy/proxy"
	"github.com/sirupsen/logrus"
)

// canGoMitmproxy leaves out what is not measured by connections that last: it has no setting
// for the key of leaves.
func canGoMitmproxy(s *scenario) bool {
	return !s.transparent && !s.hooks && !s.raw() && s.kind != handshakes && s.kind != events
}

// goMitmproxyRole is github.com/lqqyt2423/go-mitmproxy. It listens by itself, dials by itself,
// and trusts whom the system trusts.
func goMitmproxyRole(c *control) error {
	logrus.SetOutput(io.Discard)
	return serveProxy(c, func(config proxyConfig) (net.Listener, func(net.Listener) error, error) {
		if err := trust(config.CA); err != nil {
			return nil, nil, err
		}
		leaf, err := config.Leaf.tls()
		if err != nil {
			return nil, nil, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0") // for its address
		if err != nil {
			return nil, nil, err
		}
		l.Close()
		p, err := gomitmproxy.NewProxy(&gomitmproxy.Options{
			Addr: l.Addr().String(), StreamLargeBodies: bulkSize,
			NewCaFunc: func() (cert.CA, error) { return oneLeaf{leaf}, nil },
		})
		if err != nil {
			return nil, nil, err
		}
		p.SetShouldInterceptRule(func(*http.Request) bool { return config.Intercept })
		go p.Start()
		return l, func(net.Listener) error { return nil }, await(l.Addr().String())
	})
}

// trust makes crypto/x509 take a certificate for the system's only root.
func trust(ca pair) error {
	f, err := os.CreateTemp("", "bench-root")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := io.WriteString(f, ca.Cert); err != nil {
		return err
	}
	os.Setenv("SSL_CERT_FILE", f.Name())
	os.Setenv("SSL_CERT_DIR", os.DevNull)
	_, err = x509.SystemCertPool() // which is read once
	return err
}

// await returns when somebody listens.
func await(addr string) error {
	for range 500 {
		if nc, err := net.Dial("tcp", addr); err == nil {
			return nc.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("does not listen")
}

// oneLeaf is a CA that has its only certificate already.
type oneLeaf struct{ leaf tls.Certificate }

// GetRootCA implements cert.CA.
func (o oneLeaf) GetRootCA() *x509.Certificate { return o.leaf.Leaf }

// GetCert implements cert.CA.
func (o oneLeaf) GetCert(string) (*tls.Certificate, error) { return &o.leaf, nil }
