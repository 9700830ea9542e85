package mitm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// caLife is how long an authority of NewCA is valid.
const caLife = 5 * 365 * 24 * time.Hour

// CA is a certificate authority that issues a certificate for each name that clients ask for.
// NewCA, LoadCA and OpenCA make one; the private key does not leave it. Its methods may be called
// by several goroutines at once.
//
// A client whose ClientHello rules out an ECDSA key of the curve P-256 is shown a certificate with
// an RSA key of 2048 bits, which is generated for the first such client. The authority's own key
// signs both. Clients that verify only RSA signatures, in the whole chain (old embedded ones, or
// clients whose signature_algorithms_cert extension lists nothing else), need an authority with an
// RSA key, see LoadCA.
type CA struct {
	chain []*x509.Certificate // the issuer first, then those above it
	key   crypto.Signer       // of the issuer
	above [][]byte            // what is sent after a leaf

	constrained bool     // a certificate of chain has name constraints
	keys        leafKeys // of all leaves
	leaves      leafCache
}

// NewCA creates an authority with a new key (ECDSA P-256; for RSA see [LoadCA]) that is valid for
// five years.
//
// name is its common name, of at most 64 bytes. "" means one like "mitm CA 3f9a1c", whose end is
// random: a client that still trusts an earlier authority of the same name would report a bad
// signature, not an unknown authority.
func NewCA(name string) (*CA, error) {
	if name == "" {
		name = defaultName()
	}
	if len(name) > maxCommonName {
		return nil, fmt.Errorf("mitm: new CA: name of more than %d bytes", maxCommonName)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("mitm: new CA: %w", err)
	}
	cert, err := selfSigned(name, key)
	if err != nil {
		return nil, fmt.Errorf("mitm: new CA: %w", err)
	}
	return newCA([]*x509.Certificate{cert}, key)
}

func defaultName() string {
	var b [3]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("mitm CA %x", b)
}

// selfSigned makes a root that may issue leaves, but no other authority.
func selfSigned(name string, key crypto.Signer) (*x509.Certificate, error) {
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial returns a number that no other certificate has: random, positive and of at
// most 20 octets (RFC 5280, section 4.1.2.2).
func newSerial() *big.Int {
	var b [16]byte
	rand.Read(b[:]) // never fails
	serial := new(big.Int).SetBytes(b[:])
	return serial.Add(serial, big.NewInt(1))
}

func newCA(chain []*x509.Certificate, key crypto.Signer) (*CA, error) {
	keys, err := newLeafKeys()
	if err != nil {
		return nil, err
	}
	ca := &CA{chain: chain, key: key, keys: keys}
	ca.constrained = slices.ContainsFunc(chain, hasConstraints)
	for i, cert := range chain {
		// Clients have roots themselves (RFC 8446, section 4.4.2). But a root that issues
		// leaves itself is sent: clients that were told the hash of its key look for it in
		// the chain as it came. Not one with name constraints: wolfSSL applies those for
		// DNS names to the root's own common name.
		if i == 0 && !ca.constrained || issued(cert, cert) != nil {
			ca.above = append(ca.above, cert.Raw)
		}
	}
	return ca, nil
}

// nameConstraints is the extension of RFC 5280, section 4.2.1.10.
var nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

func hasConstraints(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(nameConstraints) })
}

// issued returns nil if parent may sign certificates and signed child.
func issued(parent, child *x509.Certificate) error {
	if !bytes.Equal(parent.RawSubject, child.RawIssuer) {
		return fmt.Errorf("issuer is %v", child.Issuer)
	}
	err := child.CheckSignatureFrom(parent)
	if _, old := errors.AsType[x509.InsecureAlgorithmError](err); old {
		return nil // SHA-1 in an old root; clients don't look at its signature
	}
	return err
}

// LoadCA reads an authority from PEM: one or more certificates and the private key of the first.
// That is the one that issues; each of the others issued the one before it. The key is of RSA,
// ECDSA or Ed25519, in PKCS #8, PKCS #1 or SEC 1, and not encrypted. If the certificates have name
// constraints, leaves omit the names of an origin that these forbid, and the root is not sent; a
// client that is given its hash, as Chromium is by --ignore-certificate-errors-spki-list, does not
// find it.
//
// Some clients do not accept every authority that can issue certificates: see [CA.Warnings].
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	ca, err := loadCA(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("mitm: load CA: %w", err)
	}
	return ca, nil
}

func loadCA(certPEM, keyPEM []byte) (*CA, error) {
	if encrypted(keyPEM) {
		return nil, errors.New("private key is encrypted; openssl pkey can decrypt it")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM) // checks that they belong together
	if err != nil {
		return nil, firstOf(certPEM, keyPEM, err)
	}
	chain := make([]*x509.Certificate, len(pair.Certificate))
	for i, der := range pair.Certificate {
		if chain[i], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i+1, err)
		}
	}
	if err := checkChain(chain); err != nil {
		return nil, err
	}
	ca, err := newCA(chain, pair.PrivateKey.(crypto.Signer))
	if err != nil {
		return nil, err
	}
	_, err = ca.sign(namesFor("localhost", "", nil), ecdsaLeaf) // finds a key that can't sign before a client does
	return ca, err
}

// encrypted reports whether the private key is (RFC 5958, section 3; RFC 1421, section 4.6.1.1).
func encrypted(keyPEM []byte) bool {
	for block, rest := pem.Decode(keyPEM); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
			return true
		}
	}
	return false
}

// firstOf returns a better error than err if the key belongs to a certificate that is not
// the first.
func firstOf(certPEM, keyPEM []byte, err error) error {
	for block, rest := pem.Decode(certPEM); block != nil; block, rest = pem.Decode(rest) {
		if _, other := tls.X509KeyPair(rest, keyPEM); other == nil {
			return errors.New("private key belongs to a later certificate; that one has to be the first")
		}
	}
	return err
}

// checkChain checks that the first may issue leaves and that each issued the one before it.
func checkChain(chain []*x509.Certificate) error {
	issuer := chain[0]
	switch {
	case !issuer.BasicConstraintsValid || !issuer.IsCA:
		return fmt.Errorf("%v is not a CA (RFC 5280, section 4.2.1.9)", issuer.Subject)
	case issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("%v may not sign certificates (RFC 5280, section 4.2.1.3)", issuer.Subject)
	}
	for i, cert := range chain[1:] {
		if err := issued(cert, chain[i]); err != nil {
			return fmt.Errorf("%v did not issue %v: %w", cert.Subject, chain[i].Subject, err)
		}
	}
	return nil
}

// Certificate returns the certificate that issues leaves. It must not be changed.
func (ca *CA) Certificate() *x509.Certificate { return ca.chain[0] }

// PEM returns the certificate that issues leaves, followed by those above it, for clients
// to trust. It holds no private key.
func (ca *CA) PEM() []byte {
	var b []byte
	for _, cert := range ca.chain {
		b = append(b, certificatePEM(cert)...)
	}
	return b
}

func certificatePEM(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}
