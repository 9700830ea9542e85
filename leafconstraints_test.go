package mitm_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// What an embedder's authority may not issue for is refused by clients, not by the authority.
func TestLeafNameConstraints(t *testing.T) {
	template := authorityTemplate("root")
	template.PermittedDNSDomains, template.PermittedDNSDomainsCritical = []string{"example.com"}, true
	ca := load(t, newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil))
	for name, want := range map[string]bool{"www.example.com": true, "www.example.org": false} {
		err := verifyOver(t, tls.VersionTLS13, leafFor(t, ca, name, "", nil), ca.Certificate(), name)
		if (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of an origin's names a leaf has only those that the whole chain permits: clients refuse a
// leaf with one that it does not, whatever name they want.
func TestLeafMirrorConstrained(t *testing.T) {
	mirror := &x509.Certificate{
		DNSNames:    []string{"example.com", "*.example.com", "a.b.example.com", "anexample.com", "example.org"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("198.51.100.1"), net.ParseIP("2001:db8::1")},
	}
	names, ips := fmt.Sprint(mirror.DNSNames), fmt.Sprint(mirror.IPAddresses)
	for _, test := range []struct {
		constraints x509.Certificate
		names, ips  string
	}{
		{x509.Certificate{}, strings.TrimSuffix(names, "]") + " 192.0.2.1]", ips},
		{x509.Certificate{PermittedDNSDomains: []string{"Example.com"}}, "[example.com *.example.com a.b.example.com]", ips},
		{x509.Certificate{PermittedDNSDomains: []string{".example.com"}}, "[*.example.com a.b.example.com]", ips},
		{x509.Certificate{PermittedDNSDomains: []string{"a.example.com", "org"}}, "[example.org]", ips},
		{x509.Certificate{ExcludedDNSDomains: []string{"A.example.com"}}, "[example.com a.b.example.com anexample.com example.org]", ips},
		{x509.Certificate{ExcludedDNSDomains: []string{"b.example.com", "org"}}, "[example.com anexample.com]", ips},
		{x509.Certificate{PermittedDNSDomains: []string{"com"}, ExcludedDNSDomains: []string{"example.com"}}, "[anexample.com]", ips},
		{x509.Certificate{ExcludedDNSDomains: []string{""}}, "[]", ips},
		{x509.Certificate{PermittedIPRanges: ranges("198.51.100.0/24")}, names, "[198.51.100.1]"},
		{x509.Certificate{ExcludedIPRanges: ranges("192.0.2.0/24", "2001:db8::/32")}, names, "[198.51.100.1]"},
		{x509.Certificate{ExcludedIPRanges: ranges("0.0.0.0/0", "::/0")}, names, "[]"},
	} {
		root, cas := constrained(t, &test.constraints)
		for _, ca := range cas {
			leaf := leafFor(t, ca, "", "192.0.2.1", mirror)
			if got := fmt.Sprint(leaf.Leaf.DNSNames, leaf.Leaf.IPAddresses); got != test.names+" "+test.ips {
				t.Errorf("got %s, want %s %s", got, test.names, test.ips)
			}
			name := "198.51.100.1"
			if len(leaf.Leaf.DNSNames) > 0 {
				name = strings.Replace(leaf.Leaf.DNSNames[0], "*", "www", 1)
			}
			if err := verifyOver(t, tls.VersionTLS13, leaf, root, name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// A constraint of DNS names is none of addresses, which OpenSSL takes for names in the subject.
func TestLeafAddressConstrained(t *testing.T) {
	root, cas := constrained(t, &x509.Certificate{PermittedDNSDomains: []string{"example.com"}})
	for _, ca := range cas {
		wantStrict(t, ca, root, "www.example.com", "")
		wantStrict(t, ca, root, "", "192.0.2.1")
		wantStrict(t, ca, root, "", "2001:db8::1")
	}
}

// A name in the form of an address is none that a chain with constraints may have.
func TestR45_AddressAsName(t *testing.T) {
	_, some := constrained(t, &x509.Certificate{PermittedDNSDomains: []string{"example.com"}})
	_, others := constrained(t, &x509.Certificate{PermittedIPRanges: ranges("192.0.2.0/24", "2001:db8::/32")})
	_, excluding := constrained(t, &x509.Certificate{ExcludedDNSDomains: []string{"example.com"}})
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, ca := range slices.Concat(some, others, excluding) {
			if leaf := leafFor(t, ca, "", host, nil).Leaf; len(leaf.DNSNames) > 0 || len(leaf.IPAddresses) != 1 {
				t.Errorf("%s: a leaf for %q %v", host, leaf.DNSNames, leaf.IPAddresses)
			}
		}
		ca := newCA(t)
		for range 2 {
			same := &x509.Certificate{DNSNames: []string{"example.com"}, IPAddresses: []net.IP{net.ParseIP(host)}}
			for name, want := range map[string]string{"": "[example.com " + host + "]", "example.com": "[example.com]"} {
				leaf := leafFor(t, ca, name, host, same).Leaf
				slices.Sort(leaf.DNSNames)
				slices.Reverse(leaf.DNSNames)
				if got := fmt.Sprint(leaf.DNSNames); got != want || len(leaf.IPAddresses) != 1 {
					t.Errorf("server name %q: a leaf for %s %v, want %s", name, got, leaf.IPAddresses, want)
				}
			}
		}
	}
}

// A root with name constraints is not sent, as wolfSSL applies them to the root itself.
func TestR45_ConstrainedRoot(t *testing.T) {
	for _, c := range []x509.Certificate{{}, {PermittedDNSDomains: []string{"example.com"}}, {ExcludedIPRanges: ranges("192.0.2.0/24")}} {
		root, cas := constrained(t, &c)
		for i, want := range []bool{len(c.PermittedDNSDomains)+len(c.ExcludedIPRanges) == 0, false} {
			chain := leafFor(t, cas[i], "example.com", "", nil).Certificate
			if sent := bytes.Equal(chain[len(chain)-1], root.Raw); sent != want || len(chain) < 1+i {
				t.Errorf("authority %d of %v: the root is sent: %v, want %v; chain of %d", i, c, sent, want, len(chain))
			}
		}
	}
}

// constrained returns a root with the constraints of c, and two authorities: the root itself
// and one below it.
func constrained(t *testing.T, c *x509.Certificate) (root *x509.Certificate, cas []*mitm.CA) {
	template := authorityTemplate("root")
	template.PermittedDNSDomains, template.ExcludedDNSDomains = c.PermittedDNSDomains, c.ExcludedDNSDomains
	template.PermittedIPRanges, template.ExcludedIPRanges = c.PermittedIPRanges, c.ExcludedIPRanges
	top := newAuthority(t, template, ecdsaKey(t, elliptic.P256()), nil)
	below := newAuthority(t, authorityTemplate("below"), ecdsaKey(t, elliptic.P256()), top)
	ca, err := mitm.LoadCA(pemsOf(below.cert, top.cert), keyPEM(t, "PRIVATE KEY", below.key))
	if err != nil {
		t.Fatal(err)
	}
	return top.cert, []*mitm.CA{load(t, top), ca}
}

func ranges(texts ...string) (ranges []*net.IPNet) {
	for _, text := range texts {
		_, subnet, err := net.ParseCIDR(text)
		if err != nil {
			panic(err)
		}
		ranges = append(ranges, subnet)
	}
	return ranges
}
