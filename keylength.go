package mitm

import (
	"crypto/rsa"
	"crypto/tls"
	"fmt"
)

// minRSA is how many bits an RSA key of an origin server must have, and those of the
// authorities below the root (RFC 9325, section 4.5). crypto/tls is content with 1024.
const minRSA = 2048

// longKeys returns a VerifyConnection that refuses certificates with shorter keys before it
// asks that of config.
func longKeys(config *tls.Config) func(tls.ConnectionState) error {
	verify := config.VerifyConnection
	if config.InsecureSkipVerify {
		return verify
	}
	return func(state tls.ConnectionState) error {
		if err := shortKey(state); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		if verify == nil {
			return nil
		}
		return verify(state)
	}
}

// shortKey looks for a chain whose keys are long enough; without one it returns what is wrong
// with the last.
func shortKey(state tls.ConnectionState) (err error) {
	for _, chain := range state.VerifiedChains {
		err = nil
		for i, cert := range chain {
			key, ok := cert.PublicKey.(*rsa.PublicKey)
			if ok && key.N.BitLen() < minRSA && (i == 0 || i < len(chain)-1) {
				err = fmt.Errorf("x509: RSA key of %v has %d bits, which is too short", cert.Subject, key.N.BitLen())
			}
		}
		if err == nil {
			return nil
		}
	}
	return err
}
