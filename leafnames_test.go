package mitm

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
)

// Leaf lets external tests have a leaf without a proxy.
func (ca *CA) Leaf(serverName, host string, mirror *x509.Certificate) (*tls.Certificate, error) {
	return ca.certificate(namesFor(serverName, host, mirror), ecdsaLeaf)
}

// label is the longest label there may be, and longName the longest name.
var (
	label    = strings.Repeat("x", 63)
	longName = strings.Join([]string{label, label, label, label[:61]}, ".")
)

func TestNamesFor(t *testing.T) {
	for _, test := range []struct{ serverName, host, want string }{
		{"example.com", "192.0.2.1", "example.com"},
		{"EXAMPLE.Com.", "", "example.com"},
		{"", "Example.COM.", "example.com"},
		{"localhost", "", "localhost"},
		{"xn--mnchen-3ya.example", "", "xn--mnchen-3ya.example"},
		{"_dmarc.under_score.example", "", "_dmarc.under_score.example"},
		{"-a.b-.example", "", "-a.b-.example"},
		{longName, "", longName},
		{longName + ".", "", longName},
		{"", "192.0.2.1", "192.0.2.1"},
		{"192.0.2.1", "192.0.2.2", "192.0.2.1"},
		{"192.0.2.1.", "", "192.0.2.1"},
		{"", "2001:DB8::1", "2001:db8::1"},
		{"2001:db8::1", "", "2001:db8::1"},
		{"", "fe80::1%eth0", "fe80::1"},
		{"", "::ffff:192.0.2.1", "192.0.2.1"},
		{"", "", ""},
	} {
		if got := namesFor(test.serverName, test.host, nil).key(); got != test.want {
			t.Errorf("server name %q, host %q: got %q, want %q", test.serverName, test.host, got, test.want)
		}
	}
}

// What can't be in a certificate is left out, and the host takes its place.
func TestNamesForInvalid(t *testing.T) {
	for _, name := range []string{
		"", ".", "..", ".example.com", "a..example.com", "example.com..", "münchen.example", "a\x00.example", "a\n.example",
		"a b", "a,b", "a/b", "a:443", "[2001:db8::1]", "*.example.com", "*", "\xff", "a\x7f",
		label + "x.example", longName + "x",
	} {
		if got := namesFor(name, "192.0.2.1", nil).key(); got != "192.0.2.1" {
			t.Errorf("server name %q: got %q", name, got)
		}
		if got := namesFor(name, name, nil); len(got.dns)+len(got.ips) > 0 {
			t.Errorf("host %q: got %q", name, got.key())
		}
		mirror := &x509.Certificate{DNSNames: []string{name, "kept.example"}}
		if got := namesFor("", "", mirror).key(); got != "kept.example" && !strings.Contains(name, "*") {
			t.Errorf("mirrored %q: got %q", name, got)
		}
	}
}

func TestNamesForMirror(t *testing.T) {
	mirror := &x509.Certificate{
		DNSNames:    []string{"Example.com", "*.Example.com", "f*.example.com", "other.example"},
		IPAddresses: []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1"), {1, 2, 3}},
	}
	const all = "*.example.com,f*.example.com,other.example"
	for _, test := range []struct{ serverName, host, want string }{
		{"example.com", "192.0.2.1", "example.com," + all + ",192.0.2.1,2001:db8::1"},
		{"www.example.com", "", "www.example.com,example.com," + all + ",192.0.2.1,2001:db8::1"},
		{"", "2001:db8::1", "example.com," + all + ",2001:db8::1,192.0.2.1"},
		{"", "", "example.com," + all + ",192.0.2.1,2001:db8::1"},
	} {
		if got := namesFor(test.serverName, test.host, mirror).key(); got != test.want {
			t.Errorf("server name %q, host %q: got %q, want %q", test.serverName, test.host, got, test.want)
		}
	}
	if want := []string{"Example.com", "*.Example.com", "f*.example.com", "other.example"}; !slices.Equal(mirror.DNSNames, want) {
		t.Errorf("the mirrored certificate was changed: %q", mirror.DNSNames)
	}
}

// An origin with too many names is mirrored not at all.
func TestNamesForGiant(t *testing.T) {
	mirror := &x509.Certificate{IPAddresses: []net.IP{net.IPv4(192, 0, 2, 1)}}
	for i := range maxMirrored - 1 {
		mirror.DNSNames = append(mirror.DNSNames, fmt.Sprintf("a%d.example", i))
	}
	if got := len(namesFor("asked.example", "", mirror).all()); got != maxMirrored+1 {
		t.Errorf("got %d names, want %d", got, maxMirrored+1)
	}
	mirror.DNSNames = append(mirror.DNSNames, "last.example")
	if got := namesFor("asked.example", "", mirror).key(); got != "asked.example" {
		t.Errorf("got %q", got)
	}
}

func TestCommonName(t *testing.T) {
	mirror := &x509.Certificate{DNSNames: []string{"short.example"}}
	name64 := label[:56] + ".example" // 64 bytes
	for _, test := range []struct {
		names leafNames
		want  string
	}{
		{namesFor("example.com", "", nil), "example.com"},
		{namesFor(name64, "", mirror), name64},
		{namesFor("x"+name64, "", mirror), "short.example"},
		{namesFor("", "2001:db8::1", nil), "2001:db8::1"},
		{namesFor("x"+name64, "", nil), ""},
	} {
		if got := test.names.commonName(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.names.key(), got, test.want)
		}
	}
}
