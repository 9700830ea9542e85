package mitm_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

const day = 24 * time.Hour

// longDNSName has 253 bytes, as many as a name can have.
var longDNSName = strings.Repeat("a123456789.", 22) + "example.com"

func newCA(t testing.TB) *mitm.CA {
	t.Helper()
	ca, err := mitm.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func leafFor(t testing.TB, ca *mitm.CA, serverName, host string, mirror *x509.Certificate) *tls.Certificate {
	t.Helper()
	leaf, err := ca.Leaf(serverName, host, mirror)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// load makes an authority of a root of the user's.
func load(t testing.TB, a *authority) *mitm.CA {
	t.Helper()
	ca, err := mitm.LoadCA(pemOf(a.cert), keyPEM(t, "PRIVATE KEY", a.key))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestR45_Leaf(t *testing.T) {
	ca := newCA(t)
	cert := leafFor(t, ca, "example.com", "", nil)
	leaf := cert.Leaf
	if leaf.Version != 3 || leaf.IsCA || !leaf.BasicConstraintsValid {
		t.Errorf("version %d, CA %v, basic constraints %v", leaf.Version, leaf.IsCA, leaf.BasicConstraintsValid)
	}
	if leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("key usage %b", leaf.KeyUsage)
	}
	if len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || leaf.UnknownExtKeyUsage != nil {
		t.Errorf("extended key usage %v %v", leaf.ExtKeyUsage, leaf.UnknownExtKeyUsage)
	}
	if issuer := ca.Certificate(); !bytes.Equal(leaf.AuthorityKeyId, issuer.SubjectKeyId) || !bytes.Equal(leaf.RawIssuer, issuer.RawSubject) {
		t.Errorf("authority key id %x of %v, want %x of %v", leaf.AuthorityKeyId, leaf.Issuer, issuer.SubjectKeyId, issuer.Subject)
	}
	public, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() || public.Equal(ca.Certificate().PublicKey) || !public.Equal(&cert.PrivateKey.(*ecdsa.PrivateKey).PublicKey) {
		t.Errorf("public key %v", leaf.PublicKey)
	}
	if fmt.Sprint(leaf.DNSNames, leaf.IPAddresses, leaf.Subject) != "[example.com] [] CN=example.com" {
		t.Errorf("names %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.Subject)
	}
	if critical := criticalExtensions(leaf); critical != "[2.5.29.15 2.5.29.19]" { // key usage and basic constraints
		t.Errorf("critical extensions %s", critical)
	}
}

func criticalExtensions(cert *x509.Certificate) string {
	var oids []asn1.ObjectIdentifier
	for _, extension := range cert.Extensions {
		if extension.Critical {
			oids = append(oids, extension.Id)
		}
	}
	return fmt.Sprint(oids)
}

// A name that doesn't fit a common name leaves the subject empty; then the names are critical.
func TestR45_EmptySubject(t *testing.T) {
	ca := newCA(t)
	for _, name := range []string{longDNSName, longDNSName[len(longDNSName)-65:]} {
		leaf := leafFor(t, ca, name, "", nil).Leaf
		if subject := leaf.Subject.String(); subject != "" {
			t.Errorf("subject %s", subject)
		}
		if critical := criticalExtensions(leaf); critical != "[2.5.29.15 2.5.29.19 2.5.29.17]" {
			t.Errorf("critical extensions %s", critical)
		}
		wantStrict(t, ca, ca.Certificate(), name, "")
	}
}

// A leaf named like the authority does not look like a root.
func TestR45_NamedAsIssuer(t *testing.T) {
	template := authorityTemplate("")
	template.Subject = pkix.Name{CommonName: "ca.example.com"}
	ca := load(t, newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil))
	leaf := leafFor(t, ca, "ca.example.com", "", nil).Leaf
	if bytes.Equal(leaf.RawSubject, leaf.RawIssuer) || !bytes.Equal(leaf.AuthorityKeyId, ca.Certificate().SubjectKeyId) {
		t.Errorf("subject %v, issuer %v, authority key id %x", leaf.Subject, leaf.Issuer, leaf.AuthorityKeyId)
	}
	wantStrict(t, ca, ca.Certificate(), "ca.example.com", "")
}

func TestR45_Address(t *testing.T) {
	ca := newCA(t)
	for host, want := range map[string]string{"192.0.2.1": "192.0.2.1", "2001:db8::1": "2001:db8::1", "fe80::1%eth0": "fe80::1"} {
		leaf := leafFor(t, ca, "", host, nil).Leaf
		if got := fmt.Sprint(leaf.DNSNames, leaf.IPAddresses, leaf.Subject); got != "["+want+"] ["+want+"] CN="+want {
			t.Errorf("%s: %s", host, got)
		}
		wantStrict(t, ca, ca.Certificate(), "", want)
	}
}

func TestLeafWithoutName(t *testing.T) {
	if leaf, err := newCA(t).Leaf("a b", "", nil); leaf != nil || err == nil {
		t.Errorf("got %v, %v", leaf, err)
	}
}

// Serial numbers are positive, random and never the same, however many are signed at once.
func TestR45_Serial(t *testing.T) {
	const at, times = 64, 4
	ca := newCA(t)
	var mu sync.Mutex
	serials := map[string]bool{ca.Certificate().SerialNumber.String(): true}
	bits := 0
	for round := range times {
		var all sync.WaitGroup
		for i := range at {
			all.Go(func() {
				leaf, err := ca.Leaf(fmt.Sprintf("a%d.b%d.example", round, i), "", nil)
				if err != nil {
					t.Error(err)
					return
				}
				serial := leaf.Leaf.SerialNumber
				mu.Lock()
				defer mu.Unlock()
				serials[serial.String()] = true
				bits = max(bits, serial.BitLen())
				if serial.Sign() <= 0 || serial.BitLen() > 8*20-1 {
					t.Errorf("serial %x", serial)
				}
			})
		}
		all.Wait()
	}
	if len(serials) != times*at+1 || bits < 120 {
		t.Errorf("%d serials, want %d; the longest has %d bits", len(serials), times*at+1, bits)
	}
}

// Clients that come at once for one name get one certificate; so do later ones.
func TestLeafSignedOnce(t *testing.T) {
	const names, clients = 8, 64
	ca := newCA(t)
	var certs sync.Map
	var all sync.WaitGroup
	for i := range names * clients {
		all.Go(func() {
			name := strconv.Itoa(i%names) + ".example"
			leaf, err := ca.Leaf(name, "", nil)
			if err != nil {
				t.Error(err)
				return
			}
			if first, _ := certs.LoadOrStore(name, leaf); first != leaf {
				t.Errorf("%s was signed twice", name)
			}
		})
	}
	all.Wait()
	upper := leafFor(t, ca, "0.EXAMPLE.", "", nil)
	if first, _ := certs.Load("0.example"); first != upper {
		t.Error("upper case or a dot at the end makes another certificate")
	}
}

// wantLife fails the test unless cert is valid from ... to, seen from now, to the second.
func wantLife(t *testing.T, cert *tls.Certificate, from, to time.Duration) {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	if got := cert.Leaf.NotBefore.Sub(now); got != from {
		t.Errorf("valid from %v, want %v", got, from)
	}
	if got := cert.Leaf.NotAfter.Sub(now); got != to {
		t.Errorf("valid to %v, want %v", got, to)
	}
}

// A leaf is valid for 90 days, from the day before, and used until its last day.
func TestR45_Life(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newCA(t)
		first := leafFor(t, ca, "example.com", "", nil)
		wantLife(t, first, -day, 90*day)
		time.Sleep(89*day - time.Second)
		if leafFor(t, ca, "example.com", "", nil) != first {
			t.Error("signed anew too early")
		}
		time.Sleep(time.Second)
		second := leafFor(t, ca, "example.com", "", nil)
		if second == first {
			t.Fatal("not signed anew")
		}
		wantLife(t, second, -day, 90*day)
		if leafFor(t, ca, "example.com", "", nil) != second {
			t.Error("the new one is not kept")
		}
	})
}

// No leaf is valid when its authority is not.
func TestR45_LifeOfAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		template := authorityTemplate("root")
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(10*time.Hour)
		ca := load(t, newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil))
		first := leafFor(t, ca, "example.com", "", nil)
		wantLife(t, first, -time.Hour, 10*time.Hour)
		time.Sleep(5*time.Hour - time.Second)
		if leafFor(t, ca, "example.com", "", nil) != first {
			t.Error("signed anew before half of its life")
		}
		time.Sleep(time.Second)
		second := leafFor(t, ca, "example.com", "", nil)
		if second == first {
			t.Error("not signed anew after half of its life")
		}
		wantLife(t, second, -6*time.Hour, 5*time.Hour)
		time.Sleep(5*time.Hour - time.Nanosecond)
		leafFor(t, ca, "example.com", "", nil)
		time.Sleep(time.Nanosecond)
		if leaf, err := ca.Leaf("example.com", "", nil); err == nil || !strings.Contains(err.Error(), "CN=root expired at") {
			t.Errorf("got %v, %v from an expired authority", leaf, err)
		}
	})
}

// An authority that begins later issues for later.
func TestR45_LifeBeforeAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		template := authorityTemplate("root")
		template.NotBefore = time.Now().Add(100 * day)
		ca := load(t, newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil))
		leaf := leafFor(t, ca, "example.com", "", nil)
		wantLife(t, leaf, 100*day, 190*day)
		if leafFor(t, ca, "example.com", "", nil) != leaf {
			t.Error("not kept")
		}
	})
}

// Clients that verify accept leaves for names of all kinds, in both versions of TLS.
func TestLeafHandshake(t *testing.T) {
	mirror := &x509.Certificate{
		DNSNames:    []string{"*.mirrored.example", "mirrored.example"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.7"), net.ParseIP("2001:db8::7")},
	}
	ca := newCA(t)
	for _, test := range []struct {
		name             string // what the client verifies
		serverName, host string
		mirror           *x509.Certificate
	}{
		{name: "www.example.com", serverName: "www.example.com"},
		{name: "WWW.Example.com", serverName: "WWW.Example.com"},
		{name: "www.example.com.", serverName: "www.example.com"},
		{name: "localhost", host: "localhost."},
		{name: "xn--mnchen-3ya.example", serverName: "xn--mnchen-3ya.example"},
		{name: "under_score.example", serverName: "under_score.example"},
		{name: longDNSName, serverName: longDNSName},
		{name: "192.0.2.1", host: "192.0.2.1"},
		{name: "2001:db8::1", host: "2001:db8::1"},
		{name: "any.mirrored.example", host: "192.0.2.7", mirror: mirror},
		{name: "mirrored.example", serverName: "www.mirrored.example", mirror: mirror},
		{name: "2001:db8::7", serverName: "www.mirrored.example", mirror: mirror},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			leaf := leafFor(t, ca, test.serverName, test.host, test.mirror)
			if err := verifyOver(t, version, leaf, ca.Certificate(), test.name); err != nil {
				t.Errorf("%s over %s: %v", test.name, tls.VersionName(version), err)
			}
		}
	}
	if err := verifyOver(t, tls.VersionTLS13, leafFor(t, ca, "a.example", "", mirror), ca.Certificate(), "b.example"); err == nil {
		t.Error("a leaf is valid for a name that it was not made for")
	}
}

// verifyOver does a handshake with a client that verifies name and trusts root.
func verifyOver(t *testing.T, version uint16, leaf *tls.Certificate, root *x509.Certificate, name string) error {
	t.Helper()
	client, server := memPipe()
	defer client.Close()
	done := make(chan bool)
	go func() {
		defer close(done)
		defer server.Close()
		tls.Server(server, &tls.Config{Certificates: []tls.Certificate{*leaf}}).Handshake()
	}()
	roots := x509.NewCertPool()
	roots.AddCert(root)
	err := tls.Client(client, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: version, MaxVersion: version}).Handshake()
	client.Close()
	<-done
	return err
}

func BenchmarkLeaf(b *testing.B) {
	ca := newCA(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		leafFor(b, ca, strconv.Itoa(i)+".example.com", "", nil)
	}
}

func BenchmarkLeafCached(b *testing.B) {
	ca := newCA(b)
	b.ReportAllocs()
	for b.Loop() {
		leafFor(b, ca, "www.example.com", "", nil)
	}
}
