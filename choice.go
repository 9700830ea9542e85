package mitm

import (
	"crypto/x509"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// choiceLife is how long what an origin chose is believed, missLife that it chose nothing.
	choiceLife = 10 * time.Minute
	missLife   = 10 * time.Second
	maxChoices = 4096
)

// choice is what an origin server answered to a ClientHello.
type choice struct {
	protocol string // by ALPN; "": none
	cert     *x509.Certificate
	verified bool // cert
	until    time.Time
}

// choices remembers them, so that later clients can be answered before, or without, another
// handshake with the origin.
type choices struct {
	mu     sync.Mutex
	byKey  map[originKey]choice
	misses keyTimes
	http1  keyTimes // of servers that were offered HTTP/2 and did not choose it
}

// keyTimes says until when something is believed of a server.
type keyTimes map[originKey]time.Time

func (m *keyTimes) put(key originKey, life time.Duration) {
	if *m == nil || len(*m) >= maxChoices {
		*m = keyTimes{}
	}
	(*m)[key] = time.Now().Add(life)
}

func (m keyTimes) has(key originKey) bool { return time.Now().Before(m[key]) }

// miss notes that a server did not answer in time, missed says whether that was so lately.
func (cs *choices) miss(key originKey) {
	if key.isLong() {
		return
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	cs.misses.put(key, missLife)
}

func (cs *choices) missed(key originKey) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.misses.has(key)
}

func (cs *choices) get(key originKey) (c choice, ok bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	c, ok = cs.byKey[key]
	return c, ok && time.Now().Before(c.until)
}

// speaksHTTP says whether any client was told that the server that key leads to speaks HTTP
// inside TLS, so that it will not be the first to speak.
func (cs *choices) speaksHTTP(key originKey) bool {
	_, ok := cs.get(key.socket())
	return ok
}

// onlyHTTP1 says whether a server that is asked for HTTP by key will speak HTTP/1. Unlike what get
// returns that includes a server without ALPN: inside TLS that may speak first, and something
// else, but not to a client that has begun with a request.
func (cs *choices) onlyHTTP1(key originKey) bool {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.http1.has(key)
}

// forgetHTTP1 has a server asked again.
func (cs *choices) forgetHTTP1(key originKey) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.http1, key)
}

// put remembers what o chose. A later client's handshake may then do without an origin.
func (cs *choices) put(key originKey, o *origin) choice {
	c := choice{protocol: o.state.NegotiatedProtocol, until: time.Now().Add(choiceLife)}
	if certs := o.state.PeerCertificates; len(certs) > 0 {
		c.cert, c.verified = certs[0], len(o.state.VerifiedChains) > 0
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.byKey == nil || len(cs.byKey) >= maxChoices {
		cs.byKey = map[originKey]choice{}
	}
	if key.isLong() {
		return c
	}
	if isHTTP(c.protocol) {
		cs.byKey[key], cs.byKey[key.socket()] = c, c
	}
	if asked := key.forHTTP(HTTP2); c.protocol == protoHTTP2 {
		delete(cs.http1, asked)
	} else if key.mayHTTP2() {
		cs.http1.put(asked, choiceLife)
	}
	return c
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
