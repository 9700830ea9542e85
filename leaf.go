package mitm

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// leafLife is well under the 398 days that clients accept at most.
	leafLife = 90 * 24 * time.Hour
	// backdate allows for clients whose clock is slow.
	backdate = 24 * time.Hour
	// maxCommonName is the upper bound of a common name (RFC 5280, appendix A.1).
	maxCommonName = 64
	// maxMirrored is how many names are taken over from an origin's certificate. With that many
	// mbedTLS and wolfSSL, which read certificates of at most 16 KiB, can't read the origin's either.
	maxMirrored = 1000
)

// leafNames are what a leaf is valid for. DNS names are in lower case, without the dot at
// their end; addresses have no zone.
type leafNames struct {
	dns  []string
	ips  []netip.Addr
	host netip.Addr // the first of ips if the client wants an address, else invalid
}

// namesFor returns the names of a leaf for a client that asked for serverName, or asked
// for no name and wants to connect to host, a DNS name or an IP address. If mirror, the
// origin's own certificate, is not nil, the leaf is valid for all that mirror is valid for.
// What can't be in a certificate is left out.
func namesFor(serverName, host string, mirror *x509.Certificate) leafNames {
	var n leafNames
	if !n.add(serverName) {
		n.add(host)
	}
	if mirror != nil && len(mirror.DNSNames)+len(mirror.IPAddresses) <= maxMirrored {
		n.mirror(mirror)
	}
	return n
}

// add adds a DNS name, or an IP address in text form, and reports whether name is one.
func (n *leafNames) add(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if ip, err := netip.ParseAddr(name); err == nil {
		n.host = ip.Unmap().WithZone("")
		n.ips = append(n.ips, n.host)
		return true
	}
	if !isDNSName(name) {
		return false
	}
	n.dns = append(n.dns, strings.ToLower(name))
	return true
}

// mirror adds the names of cert that are not there yet.
func (n *leafNames) mirror(cert *x509.Certificate) {
	var m leafNames
	for _, name := range cert.DNSNames {
		if isDNSName(strings.Replace(name, "*", "x", 1)) { // a wildcard
			m.dns = append(m.dns, strings.ToLower(name))
		}
	}
	for _, ip := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			m.ips = append(m.ips, addr.Unmap())
		}
	}
	n.dns = append(n.dns, slices.DeleteFunc(m.dns, func(name string) bool { return slices.Contains(n.dns, name) })...)
	n.ips = append(n.ips, slices.DeleteFunc(m.ips, func(ip netip.Addr) bool { return slices.Contains(n.ips, ip) })...)
}

// isDNSName reports whether name is a host name in the form that goes over the wire, where an
// IDN consists of A-labels (RFC 5280, section 7.2), or has underscores, which are not
// allowed but seen (RFC 1034, section 3.5).
func isDNSName(name string) bool {
	const maxName, maxLabel = 253, 63
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsFunc(label, notInName) {
			return false
		}
	}
	return len(name) <= maxName
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// all returns the names as text.
func (n leafNames) all() []string {
	names := slices.Clone(n.dns)
	for _, ip := range n.ips {
		names = append(names, ip.String())
	}
	return names
}

// key identifies the names in the cache. No name is empty or has a comma.
func (n leafNames) key() string { return strings.Join(n.all(), ",") }

// commonName returns the first name that fits, or "".
func (n leafNames) commonName() string {
	all := n.all()
	if i := slices.IndexFunc(all, func(name string) bool { return len(name) <= maxCommonName }); i >= 0 {
		return all[i]
	}
	return ""
}

// netIPs returns the addresses in the type that crypto/x509 takes.
func (n leafNames) netIPs() []net.IP {
	ips := make([]net.IP, len(n.ips))
	for i, ip := range n.ips {
		ips[i] = ip.AsSlice()
	}
	return ips
}

// errNoName is what a client gets that names nothing a certificate could be for.
var errNoName = errors.New("no name that a certificate can be issued for")

// certificate returns a certificate for those of names that the authority may sign, from the
// cache or newly signed. It changes names.
func (ca *CA) certificate(names leafNames, kind leafKind) (*tls.Certificate, error) {
	names = ca.permitted(names)
	key := names.key()
	if names.host.IsValid() {
		key += ","
	}
	if kind == rsaLeaf {
		key = "," + key
	}
	return ca.leaves.get(key, func() (*signedLeaf, error) { return ca.sign(names, kind) })
}

// sign makes a leaf. It ends with the authority at the latest.
func (ca *CA) sign(names leafNames, kind leafKind) (*signedLeaf, error) {
	issuer, now := ca.chain[0], time.Now()
	if len(names.dns)+len(names.ips) == 0 {
		return nil, errNoName
	}
	if !now.Before(issuer.NotAfter) {
		return nil, fmt.Errorf("certificate of %v expired at %v", issuer.Subject, issuer.NotAfter)
	}
	key, usage, err := ca.keys.get(kind)
	if err != nil {
		return nil, err
	}
	template := ca.template(names, now)
	template.KeyUsage = usage
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	chain := append([][]byte{der}, ca.above...)
	cert := &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: parsed}
	return newSignedLeaf(cert, now), nil
}

// template returns what is in a leaf, but for the use of its key. If the subject is empty,
// CreateCertificate makes the names critical (RFC 5280, section 4.1.2.6).
func (ca *CA) template(names leafNames, now time.Time) *x509.Certificate {
	issuer := ca.chain[0]
	start := latest(now, issuer.NotBefore)
	subject := pkix.Name{CommonName: names.commonName()}
	switch {
	case subject.String() == issuer.Subject.String():
		subject = pkix.Name{} // it would look like its own issuer
	case !ca.permitsDNS(subject.CommonName):
		subject = pkix.Name{} // OpenSSL takes an address there for a DNS name
	}
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               subject,
		NotBefore:             latest(start.Add(-backdate), issuer.NotBefore),
		NotAfter:              earliest(start.Add(leafLife), issuer.NotAfter),
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		DNSNames:              ca.dnsNames(names),
		IPAddresses:           names.netIPs(),
	}
}

// dnsNames returns the DNS names of a leaf. The address that the client connects to is one of them,
// as text: mbedTLS 2, BearSSL and Erlang look for it there, and clients that find it among the
// addresses don't mind, unless name constraints make them look at every name.
func (ca *CA) dnsNames(names leafNames) []string {
	text := names.host.String()
	if !names.host.IsValid() || ca.constrained || slices.Contains(names.dns, text) {
		return names.dns
	}
	return append(slices.Clip(names.dns), text)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
