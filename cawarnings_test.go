package mitm_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// warned are authorities of users that some clients refuse, and a word of each warning.
var warned = map[string]struct {
	make     func(t *testing.T) *mitm.CA
	warnings []string
}{
	"own":      {func(t *testing.T) *mitm.CA { return newCA(t) }, nil},
	"ordinary": {func(t *testing.T) *mitm.CA { return load(t, p256Root(t)) }, nil},
	"Ed25519": {func(t *testing.T) *mitm.CA {
		_, key, _ := ed25519.GenerateKey(rand.Reader)
		return load(t, newAuthority(t, authorityTemplate("root"), key, nil))
	}, []string{"Ed25519"}},
	"RSA 1024": {func(t *testing.T) *mitm.CA {
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			t.Fatal(err)
		}
		return load(t, newAuthority(t, authorityTemplate("root"), key, nil))
	}, []string{"2048"}},
	"no key usage": {rootWith(func(c *x509.Certificate) { c.KeyUsage = 0 }), []string{"key usage"}},
	"constraints": {rootWith(func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.com"}, true
	}), []string{"name constraints"}},
	"constraints, not critical": {rootWith(func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.com"} }), nil},
	"basic constraints, not critical": {rootWith(func(c *x509.Certificate) {
		c.BasicConstraintsValid = false
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: []byte("\x30\x03\x01\x01\xff")}}
	}), []string{"basic constraints"}},
	"no key identifier": {func(t *testing.T) *mitm.CA {
		lookTool(t, "openssl")
		key, cert := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "cert")
		run(t, "openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=root", "-keyout", key, "-out", cert,
			"-addext", "keyUsage=critical,keyCertSign", "-addext", "subjectKeyIdentifier=none", "-addext", "authorityKeyIdentifier=none")
		keyPEM, _ := os.ReadFile(key)
		certPEM, _ := os.ReadFile(cert)
		ca, err := mitm.LoadCA(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}, []string{"key identifier"}},
	"without root":    {func(t *testing.T) *mitm.CA { return loadBelow(t, false, nil) }, []string{"root"}},
	"below a root":    {func(t *testing.T) *mitm.CA { return loadBelow(t, true, nil) }, nil},
	"below a bad one": {func(t *testing.T) *mitm.CA { return loadBelow(t, true, func(c *x509.Certificate) { c.KeyUsage = 0 }) }, []string{"CN=top: no key usage"}},
	"two": {func(t *testing.T) *mitm.CA {
		return loadBelow(t, false, nil, func(c *x509.Certificate) { c.KeyUsage = 0 })
	}, []string{"key usage", "root"}},
}

func rootWith(change func(*x509.Certificate)) func(t *testing.T) *mitm.CA {
	return func(t *testing.T) *mitm.CA {
		template := authorityTemplate("root")
		change(template)
		return load(t, newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil))
	}
}

// loadBelow loads an authority that is no root itself; the changes are of the root and of that.
func loadBelow(t *testing.T, withRoot bool, changes ...func(*x509.Certificate)) *mitm.CA {
	t.Helper()
	templates := []*x509.Certificate{authorityTemplate("top"), authorityTemplate("below")}
	for i, change := range changes {
		if change != nil {
			change(templates[i])
		}
	}
	top := newAuthority(t, templates[0], ecdsaKey(t, elliptic.P256()), nil)
	below := newAuthority(t, templates[1], ecdsaKey(t, elliptic.P256()), top)
	certs := []*x509.Certificate{below.cert}
	if withRoot {
		certs = append(certs, top.cert)
	}
	ca, err := mitm.LoadCA(pemsOf(certs...), keyPEM(t, "PRIVATE KEY", below.key))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// What many clients refuse can be loaded, with a warning, and a proxy logs it once.
func TestCAWarnings(t *testing.T) {
	for name, test := range warned {
		t.Run(name, func(t *testing.T) {
			ca := test.make(t)
			warnings := ca.Warnings()
			if len(warnings) != len(test.warnings) {
				t.Fatalf("warnings %q, want %q", warnings, test.warnings)
			}
			for i, word := range test.warnings {
				if !strings.Contains(warnings[i], word) {
					t.Errorf("warnings %q, want %q", warnings, test.warnings)
				}
			}
			log := new(records)
			p := &mitm.Proxy{CA: ca, Logger: log.logger()}
			for range 2 {
				near, far := net.Pipe()
				far.Close()
				p.ServeConn(t.Context(), near)
			}
			p.Close()
			lines := slices.Collect(strings.Lines(log.buf.String()))
			if len(lines) != len(warnings) || slices.ContainsFunc(lines, func(line string) bool { return !strings.Contains(line, "level=WARN") }) {
				t.Errorf("log %q", lines)
			}
		})
	}
}
