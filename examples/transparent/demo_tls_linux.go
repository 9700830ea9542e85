package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"

	"example.com/mitm"
)

// pemVariable hands the server its certificate with the key, and the client the certificate
// that it is to trust.
const pemVariable = "MITM_DEMO_PEM"

const serverName = "shop.example"

// serverCertificate makes a certificate for the server, with its key.
func serverCertificate() (pair string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{serverName}, IPAddresses: []net.IP{net.ParseIP(server4), net.ParseIP(server6)},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	block := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	return block("CERTIFICATE", der) + block("PRIVATE KEY", private), err
}

// openTLS makes p open TLS, and trust the server's certificate. It returns the one that the
// client has to trust.
func openTLS(p *mitm.Proxy, pair string) (trusted string, err error) {
	if p.CA, err = mitm.NewCA("demo CA"); err != nil {
		return "", err
	}
	p.OriginTLS = &tls.Config{RootCAs: pool(pair)} // the server's is self-signed
	return string(p.CA.PEM()), nil
}

func pool(certificates string) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(certificates))
	return pool
}

func serveTLS(l net.Listener, handler http.Handler) error {
	pair := []byte(os.Getenv(pemVariable))
	cert, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
	return s.ServeTLS(l, "", "")
}

// transportTo connects to one address, whatever is asked for.
func transportTo(at string) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, at)
		},
		TLSClientConfig: &tls.Config{RootCAs: pool(os.Getenv(pemVariable))}, ForceAttemptHTTP2: true,
	}
}

func printCertificate(cert *x509.Certificate) {
	fmt.Printf("client  sees a certificate of %v for %v %v\n", cert.Issuer, cert.DNSNames, cert.IPAddresses)
}
