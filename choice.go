package mitm

import (
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"time"
)

const (
	// choiceLife is how long what an origin chose is believed, missLife that it chose nothing.
	choiceLife = 10 * time.Minute
	missLife   = 10 * time.Second
)

// choice is what an origin server answered to a ClientHello.
type choice struct {
	protocol string // by ALPN; "": none
	cert     *x509.Certificate
	verified bool // cert
}

// choices remembers them, so that later clients can be answered before, or without, another
// handshake with the origin.
type choices struct {
	byKey  memory[originKey, choice]
	misses memory[originKey, struct{}] // of servers that did not answer in time
	http1  memory[originKey, struct{}] // of servers that were offered HTTP/2 and did not choose it
}

// miss notes that a server did not answer c in time, missed reports whether that was so lately.
func (cs *choices) miss(key originKey, c *Conn) {
	if !key.isLong() {
		cs.misses.put(key, struct{}{}, missLife, c.owner())
	}
}

func (cs *choices) missed(key originKey) bool {
	_, ok := cs.misses.get(key)
	return ok
}

func (cs *choices) get(key originKey) (c choice, ok bool) { return cs.byKey.get(key) }

// speaksHTTP reports whether the server at key has spoken HTTP inside TLS for any client. It may
// have something else at the same address, for other clients.
func (cs *choices) speaksHTTP(key originKey) bool {
	_, ok := cs.get(key.socket())
	return ok
}

// onlyHTTP1 reports whether a server that is asked for HTTP by key will speak HTTP/1. Unlike what get
// returns that includes a server without ALPN: inside TLS that may speak first, and something
// else, but not to a client that has begun with a request.
func (cs *choices) onlyHTTP1(key originKey) bool {
	_, ok := cs.http1.get(key)
	return ok
}

// forgetHTTP1 has a server asked again.
func (cs *choices) forgetHTTP1(key originKey) { cs.http1.forget(key) }

// put remembers what o chose for c. A later client's handshake may then do without an origin.
func (cs *choices) put(key originKey, o *origin, c *Conn) choice {
	chosen := choice{protocol: o.state.NegotiatedProtocol}
	if certs := o.state.PeerCertificates; len(certs) > 0 {
		chosen.cert, chosen.verified = certs[0], len(o.state.VerifiedChains) > 0
	}
	if key.isLong() {
		return chosen
	}
	owner := c.owner()
	if isHTTP(chosen.protocol) {
		cs.byKey.put(key, chosen, choiceLife, owner)
		cs.byKey.put(key.socket(), chosen, choiceLife, owner)
	}
	if asked := key.forHTTP(HTTP2); chosen.protocol == protoHTTP2 {
		cs.http1.forget(asked)
	} else if key.mayHTTP2() {
		cs.http1.put(asked, struct{}{}, choiceLife, owner)
	}
	return chosen
}

func isHTTP(protocol string) bool { return protocol == protoHTTP1 || protocol == protoHTTP2 }

// offer returns, of the protocols that a client offers, what an origin is offered: those of
// HTTP that the proxy reads, or, of a client that offers none of these, all.
func offer(protocols []string) []string {
	var known []string
	for _, p := range protocols {
		if isHTTP(p) && !slices.Contains(known, p) {
			known = append(known, p)
		}
	}
	if len(known) > 0 {
		return known
	}
	for _, p := range protocols {
		if strings.Contains(p, ",") { // which originKey.alpn can't hold
			return nil
		}
	}
	return protocols
}

// otherHTTP returns the version of HTTP that an origin was not offered, "" if it was offered both or
// something else.
func otherHTTP(offered []string) string {
	switch {
	case len(offered) != 1:
		return ""
	case offered[0] == protoHTTP1:
		return protoHTTP2
	case offered[0] == protoHTTP2:
		return protoHTTP1
	}
	return ""
}

// answer returns the protocol for a client that offered some: the one that the origin chose
// if that is known, else one that the proxy reads.
func (c choice) answer(offered []string, known bool) string {
	switch {
	case known && slices.Contains(offered, c.protocol):
		return c.protocol
	case !known && slices.Contains(offered, protoHTTP2):
		return protoHTTP2
	case slices.Contains(offered, protoHTTP1):
		return protoHTTP1
	case slices.Contains(offered, protoHTTP2):
		return protoHTTP2
	}
	return ""
}

// owner is the client that an entry is attributed to: the host of c.
func (c *Conn) owner() string {
	addr := c.RemoteAddr()
	if addr == nil {
		return ""
	}
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		return host
	}
	return addr.String()
}
