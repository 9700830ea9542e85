package mitm

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// This file determines the name that an origin's certificate is verified for, see
// Flow.VerifiedName.

// certificateName is canonicalName for a name that a certificate must have: addresses, which it has as
// such, have no brackets and one spelling.
func certificateName(name string) string {
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Unmap().String()
	}
	return canonicalName(name)
}

// verifiedName is the name that certificates of connections with key are verified for. It is
// unknown if StartTLS does the handshake, and with InsecureSkipVerify, whatever VerifyConnection
// does instead.
func (d *dialer) verifiedName(key originKey) string {
	config := d.config
	if key.config != nil {
		config = key.config
	}
	switch {
	case !key.tls, config.InsecureSkipVerify, d.startTLS != nil:
		return ""
	case config.ServerName != "":
		return certificateName(config.ServerName)
	}
	return certificateName(key.serverName)
}

// identify stores the URL and the verified name of r, whose key is known, for the flow.
func (p *Proxy) identify(r *route) *route {
	r.site, r.verified = "http://"+r.authority(), ""
	if r.key.tls {
		r.site = "https://" + r.authority()
	}
	if r.action != Reject && r.handler == nil && (p.Transport == nil || r.action == Tunnel) {
		r.verified = p.dialer.verifiedName(r.key)
	}
	return r
}

// goes tells f where it goes.
func (f *Flow) goes(r *route) {
	if f != nil {
		f.Conn, f.VerifiedName = r.conn, r.verified
	}
}

// follow tells the flow the verified name of the destination that u names, as hooks left it.
func (h *hookedExchange) follow(u *url.URL) {
	r := h.routeOf(u)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asker != nil && h.flow.VerifiedName != r.verified { // hooks may be reading what does not change
		h.flow.VerifiedName = r.verified
	}
}

// follower stands between two hooks: the inner one has to know what the outer one did to URL.Host.
type follower struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (f follower) RoundTrip(req *http.Request) (*http.Response, error) {
	if flow := FlowFromContext(req.Context()); flow != nil && flow.origin != nil {
		flow.origin.follow(req.URL)
	}
	return f.next.RoundTrip(req)
}
