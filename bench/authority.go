package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// hostName is what the origin is called where TLS needs a name. Every name below domain is the
// origin too.
const (
	domain   = "bench.test"
	hostName = "origin." + domain
)

// pair is a certificate and its key, both in PEM.
type pair struct{ Cert, Key string }

// authority is the one that all of a run trust: it signed the origin's certificate, and proxies
// sign with it what they show to clients.
type authority struct {
	pair
	Origin pair
}

func newAuthority() (a authority, err error) {
	template := certificate("bench CA", nil)
	template.IsCA = true
	template.KeyUsage |= x509.KeyUsageCertSign
	template.SubjectKeyId = []byte("bench")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return a, err
	}
	if a.pair, err = sign(template, template, key, key); err != nil {
		return a, err
	}
	originKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return a, err
	}
	leaf := certificate(hostName, []string{domain, "*." + domain, "localhost"})
	a.Origin, err = sign(leaf, template, originKey, key)
	return a, err
}

func certificate(name string, names []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(48 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              names,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

func sign(template, parent *x509.Certificate, key, by *ecdsa.PrivateKey) (p pair, err error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return p, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return p, err
	}
	p.Cert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	p.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return p, nil
}

// tls returns the pair as crypto/tls wants it.
func (p pair) tls() (tls.Certificate, error) {
	return tls.X509KeyPair([]byte(p.Cert), []byte(p.Key))
}

// roots returns a pool with the one certificate.
func (p pair) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(p.Cert))
	return pool
}
