package mitm

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// permitted takes from names, which it changes, what a certificate of the chain does not let
// its holder sign for (RFC 5280, section 4.2.1.10): one such name, and clients refuse the leaf
// for all of them. If nothing would be left, all stay, so that clients say why they refuse it.
func (ca *CA) permitted(names leafNames) leafNames {
	if !slices.ContainsFunc(names.dns, ca.permitsDNS) && !slices.ContainsFunc(names.ips, ca.permitsIP) {
		return names
	}
	names.dns = slices.DeleteFunc(names.dns, func(name string) bool { return !ca.permitsDNS(name) })
	names.ips = slices.DeleteFunc(names.ips, func(ip netip.Addr) bool { return !ca.permitsIP(ip) })
	return names
}

// permitsDNS reports whether a leaf may have name, which is in lower case.
func (ca *CA) permitsDNS(name string) bool {
	within := func(subtree string) bool { return isWithin(name, strings.ToLower(subtree)) }
	touches := func(subtree string) bool { return within(subtree) || covers(name, strings.ToLower(subtree)) }
	return !slices.ContainsFunc(ca.chain, func(cert *x509.Certificate) bool {
		permitted, excluded := cert.PermittedDNSDomains, cert.ExcludedDNSDomains
		return len(permitted) > 0 && !slices.ContainsFunc(permitted, within) || slices.ContainsFunc(excluded, touches)
	})
}

// isWithin reports whether name is subtree or ends with its labels. A subtree with a dot in front
// is what clients make of it: all below the name, but not the name itself.
func isWithin(name, subtree string) bool {
	rest, ok := strings.CutSuffix(name, subtree)
	return ok && (rest == "" || subtree == "" || subtree[0] == '.' || strings.HasSuffix(rest, "."))
}

// covers reports whether name has a wildcard that stands for other, too.
func covers(name, other string) bool {
	parent, wild := strings.CutPrefix(name, "*.")
	_, rest, _ := strings.Cut(other, ".")
	return wild && rest == parent
}

// permitsIP reports whether a leaf may have ip.
func (ca *CA) permitsIP(ip netip.Addr) bool {
	within := func(subtree *net.IPNet) bool { return subtree.Contains(ip.AsSlice()) }
	return !slices.ContainsFunc(ca.chain, func(cert *x509.Certificate) bool {
		permitted, excluded := cert.PermittedIPRanges, cert.ExcludedIPRanges
		return len(permitted) > 0 && !slices.ContainsFunc(permitted, within) || slices.ContainsFunc(excluded, within)
	})
}
