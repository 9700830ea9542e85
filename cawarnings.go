package mitm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// Warnings describes what many clients do not accept in the certificates of the authority: one
// sentence for each finding, which names clients that are known to refuse it. It returns nil if
// there is nothing, as for every authority of [NewCA]. A [Proxy] logs the warnings of its CA when
// it starts.
func (ca *CA) Warnings() []string {
	var warnings []string
	for _, cert := range ca.chain {
		for _, w := range caWarnings {
			if w.about(cert) {
				warnings = append(warnings, fmt.Sprintf("%v: %s", cert.Subject, w.text))
			}
		}
	}
	if top := ca.chain[len(ca.chain)-1]; !isRoot(top) {
		warnings = append(warnings, fmt.Sprintf("%v: its root is not among the certificates; "+
			"OpenSSL, Node, Python before 3.13, PHP and Erlang refuse leaves unless they trust the root", top.Subject))
	}
	return warnings
}

// caWarnings are what is looked for in each certificate. The clients named were measured.
var caWarnings = []struct {
	about func(cert *x509.Certificate) bool
	text  string
}{
	{func(cert *x509.Certificate) bool { return isKey[ed25519.PublicKey](cert) },
		"Ed25519 key; Chromium, Firefox, NSS, mbedTLS and BearSSL refuse it"},
	{func(cert *x509.Certificate) bool {
		key, ok := cert.PublicKey.(*rsa.PublicKey)
		return ok && key.N.BitLen() < leafRSA
	}, "RSA key of less than 2048 bits; OpenSSL as Debian configures it refuses it"},
	{func(cert *x509.Certificate) bool { return len(cert.SubjectKeyId) == 0 },
		"no subject key identifier; Python 3.13 refuses it"},
	{func(cert *x509.Certificate) bool { return !isCritical(cert, basicConstraints) },
		"basic constraints are not critical; Python 3.13 refuses that"},
	{func(cert *x509.Certificate) bool { return cert.KeyUsage == 0 },
		"no key usage; Python 3.13 refuses it"},
	{func(cert *x509.Certificate) bool { return isCritical(cert, nameConstraints) },
		"critical name constraints; mbedTLS can't load it"},
	{func(cert *x509.Certificate) bool {
		return cert.SignatureAlgorithm == x509.SHA1WithRSA && !isRoot(cert)
	}, "signed with SHA-1; most clients refuse that"},
}

// basicConstraints is the extension of RFC 5280, section 4.2.1.9.
var basicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}

func isCritical(cert *x509.Certificate, id asn1.ObjectIdentifier) bool {
	for _, extension := range cert.Extensions {
		if extension.Id.Equal(id) {
			return extension.Critical
		}
	}
	return false
}

func isKey[K any](cert *x509.Certificate) bool {
	_, ok := cert.PublicKey.(K)
	return ok
}

// isRoot reports whether the certificate claims to be its own issuer.
func isRoot(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }
