package mitm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// authority is a certificate authority of a user.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// authorityTemplate is what newAuthority issues.
func authorityTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(365 * 24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// newAuthority issues template for key. Without an issuer it makes a root.
func newAuthority(t testing.TB, template *x509.Certificate, key crypto.Signer, issuer *authority) *authority {
	t.Helper()
	parent := &authority{cert: template, key: key}
	if issuer != nil {
		parent = issuer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// p256Root is a root that can be loaded.
func p256Root(t testing.TB) *authority {
	t.Helper()
	return newAuthority(t, authorityTemplate("root"), ecdsaKey(t, elliptic.P256()), nil)
}

// keyPEM encodes a private key in the form that a PEM block of that type has.
func keyPEM(t testing.TB, block string, key crypto.Signer) []byte {
	t.Helper()
	var der []byte
	var err error
	switch block {
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(key.(*rsa.PrivateKey))
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	case "PRIVATE KEY":
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil || der == nil {
		t.Fatalf("%s: %v", block, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der})
}

func pemsOf(certs ...*x509.Certificate) (b []byte) {
	for _, cert := range certs {
		b = append(b, pemOf(cert)...)
	}
	return b
}

func TestNewCA(t *testing.T) {
	for name, want := range map[string]string{"": "CN=mitm CA ", "Zoë's": "CN=Zoë's", strings.Repeat("n", 64): "CN=" + strings.Repeat("n", 64)} {
		ca, err := mitm.NewCA(name)
		if err != nil {
			t.Fatal(err)
		}
		cert := ca.Certificate()
		if got := cert.Subject.String(); got != want && (name != "" || !strings.HasPrefix(got, want)) {
			t.Errorf("subject %q, want %q", got, want)
		}
		if !cert.IsCA || !cert.MaxPathLenZero || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign || len(cert.SubjectKeyId) != 20 {
			t.Errorf("got %+v", cert)
		}
		if !bytes.Equal(ca.PEM(), pemOf(cert)) {
			t.Errorf("PEM is\n%s", ca.PEM())
		}
		wantStrict(t, ca, cert, "www.example.com", "")
	}
	for _, name := range []string{strings.Repeat("n", 65), "\xff"} {
		if ca, err := mitm.NewCA(name); err == nil || ca != nil {
			t.Errorf("%q: got %v, %v", name, ca, err)
		}
	}
}

// No two authorities have one default name.
func TestNewCADefaultName(t *testing.T) {
	names := map[string]bool{}
	for range 20 {
		names[newCA(t).Certificate().Subject.CommonName] = true
	}
	if len(names) < 19 { // of 2^24
		t.Errorf("%d names of 20 authorities", len(names))
	}
}

// wantStrict fails the test unless OpenSSL, at its strictest, and crypto/x509 accept a leaf
// of ca for a client that trusts root.
func wantStrict(t *testing.T, ca *mitm.CA, root *x509.Certificate, name, ip string) {
	t.Helper()
	leaf, err := ca.Leaf(name, ip, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root)
	var above []byte
	for _, der := range leaf.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(cert)
		above = append(above, pemOf(cert)...)
	}
	if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name + ip}); err != nil {
		t.Errorf("crypto/x509: %v", err)
	}
	dir := t.TempDir()
	file := func(file string, content []byte) string {
		file = filepath.Join(dir, file)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	args := []string{
		"verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslserver",
		"-CAfile", file("root.pem", pemOf(root)),
	}
	if above != nil {
		args = append(args, "-untrusted", file("above.pem", above))
	}
	if name != "" {
		args = append(args, "-verify_hostname", name)
	} else {
		args = append(args, "-verify_ip", ip)
	}
	path := file("leaf.pem", pemOf(leaf.Leaf))
	want(t, run(t, "openssl", append(args, path)...), path+": OK\n")
}

// TestLoadCA loads keys of all kinds, of a root and of an authority two steps below it.
func TestLoadCA(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed25519Key, _ := ed25519.GenerateKey(rand.Reader)
	p256, p384 := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P384())
	top := newAuthority(t, authorityTemplate("top"), p384, nil)
	middle := newAuthority(t, authorityTemplate("middle"), rsaKey, top)
	for _, test := range []struct {
		name, block string
		key         crypto.Signer
		signature   x509.SignatureAlgorithm
	}{
		{"RSA, PKCS 1", "RSA PRIVATE KEY", rsaKey, x509.SHA256WithRSA},
		{"RSA, PKCS 8", "PRIVATE KEY", rsaKey, x509.SHA256WithRSA},
		{"P-256, SEC 1", "EC PRIVATE KEY", p256, x509.ECDSAWithSHA256},
		{"P-256, PKCS 8", "PRIVATE KEY", p256, x509.ECDSAWithSHA256},
		{"P-384, PKCS 8", "PRIVATE KEY", p384, x509.ECDSAWithSHA384},
		{"Ed25519, PKCS 8", "PRIVATE KEY", ed25519Key, x509.PureEd25519},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := newAuthority(t, authorityTemplate("direct"), test.key, nil)
			below := newAuthority(t, authorityTemplate("below"), test.key, middle)
			for _, chain := range [][]*x509.Certificate{
				{root.cert},
				{below.cert, middle.cert},
				{below.cert, middle.cert, top.cert},
			} {
				ca, err := mitm.LoadCA(pemsOf(chain...), keyPEM(t, test.block, test.key))
				if err != nil {
					t.Fatal(err)
				}
				wantLoaded(t, ca, chain, test.signature)
				trusted := top.cert
				if len(chain) == 1 {
					trusted = root.cert
				}
				wantStrict(t, ca, trusted, "www.example.com", "")
				wantStrict(t, ca, trusted, "", "192.0.2.1")
			}
		})
	}
}

// wantLoaded checks that ca is what was loaded, and what it sends: all but a root that does
// not issue leaves itself.
func wantLoaded(t *testing.T, ca *mitm.CA, chain []*x509.Certificate, signature x509.SignatureAlgorithm) {
	t.Helper()
	if !ca.Certificate().Equal(chain[0]) || !bytes.Equal(ca.PEM(), pemsOf(chain...)) {
		t.Errorf("loaded %v and\n%s", ca.Certificate().Subject, ca.PEM())
	}
	leaf, err := ca.Leaf("example.com", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if leaf.Leaf.SignatureAlgorithm != signature {
		t.Errorf("signed with %v, want %v", leaf.Leaf.SignatureAlgorithm, signature)
	}
	sent := [][]byte{leaf.Leaf.Raw}
	for _, cert := range chain {
		if cert.Subject.CommonName != "top" {
			sent = append(sent, cert.Raw)
		}
	}
	if !bytes.Equal(bytes.Join(leaf.Certificate, nil), bytes.Join(sent, nil)) {
		t.Errorf("%d certificates are sent, want %d, or they differ", len(leaf.Certificate), len(sent))
	}
}

func TestLoadCAError(t *testing.T) {
	key := ecdsaKey(t, elliptic.P256())
	root := newAuthority(t, authorityTemplate("root"), key, nil)
	below := newAuthority(t, authorityTemplate("below"), ecdsaKey(t, elliptic.P256()), root)
	same := p256Root(t) // has the name of root, but another key
	made := func(change func(*x509.Certificate)) []byte {
		template := authorityTemplate("changed")
		change(template)
		return pemOf(newAuthority(t, template, key, nil).cert)
	}
	rootPEM, rootKey, belowKey := pemOf(root.cert), keyPEM(t, "PRIVATE KEY", key), keyPEM(t, "PRIVATE KEY", below.key)
	for name, test := range map[string]struct {
		certPEM, keyPEM []byte
		want            string
	}{
		"nothing":              {nil, nil, "failed to find any PEM data in certificate input"},
		"no key":               {rootPEM, nil, "failed to find any PEM data in key input"},
		"swapped":              {rootKey, rootPEM, "PEM inputs may have been switched"},
		"certificate as key":   {rootPEM, rootPEM, "found a certificate rather than a key"},
		"key of another":       {rootPEM, belowKey, "private key does not match public key"},
		"other order":          {pemsOf(root.cert, below.cert), belowKey, "private key belongs to a later certificate"},
		"broken link":          {pemsOf(below.cert, below.cert), belowKey, "CN=below did not issue CN=below: issuer is CN=root"},
		"link to another key":  {pemsOf(below.cert, same.cert), belowKey, "CN=root did not issue CN=below: x509: ECDSA verification failure"},
		"no CA":                {made(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, 0 }), rootKey, "CN=changed is not a CA"},
		"no basic constraints": {made(func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false }), rootKey, "CN=changed is not a CA"},
		"may not sign":         {made(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }), rootKey, "CN=changed may not sign certificates"},
		"expired":              {made(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), rootKey, "CN=changed expired at"},
		"encrypted, PKCS 8":    {rootPEM, encryptedKey(t, rootKey, "pkcs8", "-topk8", "-v2", "aes-256-cbc", "-passout", "pass:x"), "private key is encrypted"},
		"encrypted, SEC 1":     {rootPEM, encryptedKey(t, rootKey, "ec", "-aes256", "-passout", "pass:x"), "private key is encrypted"},
	} {
		ca, err := mitm.LoadCA(test.certPEM, test.keyPEM)
		if ca != nil || err == nil || !strings.HasPrefix(err.Error(), "mitm: load CA: ") || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %s", name, err, test.want)
		}
	}
}

// encryptedKey has a command of openssl encrypt a key.
func encryptedKey(t *testing.T, key []byte, command ...string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, key, 0o600); err != nil {
		t.Fatal(err)
	}
	return []byte(run(t, "openssl", append(command, "-in", file)...))
}

// A file may hold the key and the certificates together; what is handed out has no key.
func TestLoadCAOneFile(t *testing.T) {
	root := p256Root(t)
	both := append(keyPEM(t, "EC PRIVATE KEY", root.key), pemOf(root.cert)...)
	ca, err := mitm.LoadCA(both, both)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca.PEM(), pemOf(root.cert)) {
		t.Error("PEM holds more than the certificate")
	}
}

// What OpenSSL itself writes can be loaded.
func TestLoadCAOpenSSL(t *testing.T) {
	dir := t.TempDir()
	for name, newKey := range map[string][]string{
		"rsa":     {"-newkey", "rsa:2048"},
		"ec":      {"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"},
		"ed25519": {"-newkey", "ed25519"},
	} {
		key, cert := filepath.Join(dir, name+"-key.pem"), filepath.Join(dir, name+".pem")
		run(t, "openssl", append([]string{
			"req", "-x509", "-nodes", "-subj", "/CN=" + name, "-days", "30", "-keyout", key, "-out", cert,
			"-addext", "keyUsage=critical,keyCertSign",
		}, newKey...)...)
		keyPEM, keyErr := os.ReadFile(key)
		certPEM, certErr := os.ReadFile(cert)
		ca, err := mitm.LoadCA(certPEM, keyPEM)
		if keyErr != nil || certErr != nil || err != nil {
			t.Fatal(name, keyErr, certErr, err)
		}
		wantStrict(t, ca, ca.Certificate(), "www.example.com", "")
	}
}
