package mitm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
)

// issuer signs certificates of origins.
type issuer struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newIssuer returns a root.
func newIssuer(t testing.TB, name string) *issuer {
	t.Helper()
	i := &issuer{t: t, key: newKey(t)}
	i.cert = &x509.Certificate{Subject: pkix.Name{CommonName: name}}
	i.cert = i.sign(i.key, func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = name, true, x509.KeyUsageCertSign
	})
	return i
}

// sign signs a certificate for key, valid for an hour and for nothing but what change says.
func (i *issuer) sign(key crypto.Signer, change func(c *x509.Certificate)) *x509.Certificate {
	i.t.Helper()
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{
		SerialNumber: serial, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, i.cert, key.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	c, err = x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return c
}

// leaf is a server's certificate for one name; change, if not nil, spoils it.
func (i *issuer) leaf(name string, key crypto.Signer, change func(c *x509.Certificate)) tls.Certificate {
	cert := i.sign(key, func(c *x509.Certificate) {
		c.DNSNames, c.ExtKeyUsage = []string{name}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		if change != nil {
			change(c)
		}
	})
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (i *issuer) pool() *x509.CertPool { return poolOf(i.cert) }

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// farm has origins for host names, all on loopback.
type farm struct {
	t     *testing.T
	root  *issuer // the one that is trusted
	other *issuer
	addrs map[string]string      // by host
	ends  map[string]chan string // by host: what each connection that ended had brought
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	return &farm{t: t, root: newIssuer(t, "good root"), other: newIssuer(t, "other root"),
		addrs: map[string]string{}, ends: map[string]chan string{}}
}

// dial is the Dial of a proxy that finds the farm, and nothing else.
func (f *farm) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(addr)
	if f.addrs[host] == "" {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return new(net.Dialer).DialContext(ctx, network, f.addrs[host])
}

// serve adds an HTTP server over TLS, HTTP/2 included.
func (f *farm) serve(host string, config *tls.Config) {
	f.serveHandler(host, config, http.HandlerFunc(describe))
}

// describe answers with the protocol, the path, the size of the content, and the common name
// of the client's certificate.
func describe(w http.ResponseWriter, req *http.Request) {
	n, _ := io.Copy(io.Discard, req.Body)
	io.WriteString(w, req.Proto+" "+req.URL.Path)
	if n > 0 {
		fmt.Fprintf(w, " with %d bytes", n)
	}
	for _, cert := range req.TLS.PeerCertificates {
		io.WriteString(w, " from "+cert.Subject.CommonName)
	}
}

// serveHandler is serve with other answers. Of a connection it reports whether a byte came
// through the TLS.
func (f *farm) serveHandler(host string, config *tls.Config, handler http.Handler) {
	ends := make(chan string, 1024)
	s := httptest.NewUnstartedServer(handler)
	s.TLS, s.EnableHTTP2 = config, true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	var came sync.Map
	s.Config.ConnState = func(nc net.Conn, state http.ConnState) {
		switch state {
		case http.StateActive:
			came.Store(nc, "something in TLS")
		case http.StateClosed:
			got, _ := came.LoadAndDelete(nc)
			ends <- fmt.Sprint(got)
		}
	}
	s.StartTLS()
	f.t.Cleanup(s.Close)
	f.addrs[host], f.ends[host] = s.Listener.Addr().String(), ends
}

// raw adds an origin that does as it likes once the first bytes have come.
func (f *farm) raw(host string, then func(c *peer)) {
	ends := make(chan string, 1024)
	f.ends[host] = ends
	f.addrs[host] = origin(f.t, func(c *peer) {
		got := make([]byte, 64<<10)
		n, _ := c.Read(got)
		then(c)
		m, _ := io.ReadFull(c, got[n:])
		ends <- string(got[:n+m])
	})
}

// secureClient is a kind of client.
type secureClient struct {
	t        *testing.T
	version  uint16 // of TLS
	protocol string // "HTTP/1.1", or "HTTP/2.0" for one that speaks both
}

// eachSecureClient runs f for clients of both versions of TLS and of HTTP.
func eachSecureClient(t *testing.T, f func(t *testing.T, c secureClient)) {
	t.Helper()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(tls.VersionName(version)+" "+protocol, func(t *testing.T) { f(t, secureClient{t, version, protocol}) })
		}
	}
}

// through returns a client that goes through proxy and trusts ca.
func (c secureClient) through(proxy string, ca *mitm.CA) *http.Client {
	client := c.trusting(poolOf(ca.Certificate()))
	client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	return client
}

// trusting returns a client that knows no proxy.
func (c secureClient) trusting(roots *x509.CertPool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: c.version, MaxVersion: c.version},
		Protocols:       new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(true)
	transport.Protocols.SetHTTP2(c.protocol == "HTTP/2.0")
	c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 2 * patience}
}

// flowOf returns the flow of the exchange for url, and drops those that are done before.
func flowOf(t *testing.T, flows chan *mitm.Flow, url string) *mitm.Flow {
	t.Helper()
	for {
		if f := nextFlow(t, flows); f.URL == url {
			return f
		}
	}
}

// untouched waits for a connection to host to end and fails the test if anything but a
// handshake came through it, or through one that ended before.
func (f *farm) untouched(t *testing.T, host string) {
	t.Helper()
	select {
	case got := <-f.ends[host]:
		for ; ; got = <-f.ends[host] {
			if strings.Contains(got, "in TLS") || strings.Contains(got, "secret") {
				t.Errorf("the origin got %q", got)
			}
			if len(f.ends[host]) == 0 {
				return
			}
		}
	case <-time.After(patience):
		t.Error("the connection to the origin does not end")
	}
}
