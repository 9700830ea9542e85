package mitm

import (
	"bytes"
	"errors"
	"net/http"
)

// Errors of the fields that say where a message ends. What could be read in two ways
// is refused: a proxy that guesses differently from the next hop lets one request be
// taken for two.
var (
	errLength         = errors.New("invalid or contradictory Content-Length (RFC 9112, section 6.3)")
	errLengthAndTE    = errors.New("both Content-Length and Transfer-Encoding (RFC 9112, section 6.3)")
	errCoding         = errors.New("transfer coding other than chunked (RFC 9112, section 6.1)")
	errNotLastChunked = errors.New("chunked is not the last transfer coding, once (RFC 9112, section 6.3)")
	errTEInHTTP10     = errors.New("Transfer-Encoding in an HTTP/1.0 message (RFC 9112, section 6.1)")
	errHostCount      = errors.New("request needs exactly one Host field (RFC 9112, section 3.2)")
	errHostValue      = errors.New("invalid Host field (RFC 9112, section 3.2)")
	errManyNames      = errors.New("too many names in Connection (RFC 9110, section 7.6.1)")
	errMaxForwards    = errors.New("invalid Max-Forwards (RFC 9110, section 7.6.2)")
)

// framingKind is how the end of a message's content is found (RFC 9112, section 6.3).
type framingKind uint8

const (
	noContent   framingKind = iota // the message has none, whatever its fields say
	knownLength                    // Content-Length
	chunked                        // Transfer-Encoding: chunked
	closeFramed                    // a response that ends with its connection
)

// framing is the length of a message's content and how the other side is told.
type framing struct {
	kind   framingKind
	length int64 // of knownLength
}

// empty says that no byte of content follows the head.
func (f framing) empty() bool {
	return f.kind == noContent || f.kind == knownLength && f.length == 0
}

// What Connection names has a limit, since each field is looked up there: in bytes, which is
// enough for the longest names, and in number.
const (
	maxNamesBytes = 1 << 10
	maxNames      = 64
)

// control is what the fields of a message say about the message itself and about the
// connection that it came on, as opposed to its recipient.
type control struct {
	framing
	hasLength, hasTE bool
	pads             bool // chunk sizes may be padded, see parseChunkSize

	hosts int
	host  []byte // the last Host field

	names           []byte // copy of Connection fields that name what must not go on
	close           bool   // Connection: close
	upgrade         bool   // Connection: upgrade and an Upgrade field that can be tunnelled
	untunnellable   bool   // Upgrade fields of which none can be tunnelled
	trailers        bool   // TE: trailers
	expectContinue  bool   // Expect: 100-continue
	hasDate         bool
	maxForwards     int  // -1: none
	badForwards     bool // no number, or two; it counts for some methods only
	proxyAuthorized bool // Proxy-Authorization
	connectionBound bool // credentials that authenticate the connection: NTLM, Negotiate
}

// read goes over the fields once. Which body the message has is decided afterwards,
// by request or response.
func (c *control) read(fields []field) error {
	*c = control{maxForwards: -1}
	protocols, upgradable := false, false
	for i := range fields {
		f := &fields[i]
		switch f.kind {
		case endToEnd:
			continue
		case hostField:
			c.hosts++
			c.host = f.value
		case contentLengthField:
			if err := c.readLength(f.value); err != nil {
				return err
			}
		case transferEncodingField:
			if err := c.readTransferEncoding(f.value); err != nil {
				return err
			}
		case upgradeField:
			protocols, upgradable = true, upgradable || tunnellable(f.value)
		default:
			c.readOther(f)
		}
	}
	c.upgrade, c.untunnellable = c.upgrade && upgradable, protocols && !upgradable
	if len(c.names) > maxNamesBytes || bytes.Count(c.names, []byte{','}) > maxNames {
		return errManyNames
	}
	return nil
}

func (c *control) readOther(f *field) {
	switch f.kind {
	case connectionField, proxyConnectionField:
		c.readConnection(f)
	case teField:
		c.trailers = c.trailers || hasToken(f.value, "trailers")
	case expectField:
		c.expectContinue = c.expectContinue || equalFold(f.value, "100-continue")
	case dateField:
		c.hasDate = true
	case maxForwardsField:
		n, ok := parseDigits(f.value)
		c.badForwards = c.badForwards || !ok || c.maxForwards >= 0
		c.maxForwards = int(min(n, 1<<20))
	case authorizationField, wwwAuthenticateField, proxyAuthorizationField, proxyAuthenticateField:
		c.proxyAuthorized = c.proxyAuthorized || f.kind == proxyAuthorizationField
		c.connectionBound = c.connectionBound || bindsConnection(f.value)
	}
}

func (c *control) readConnection(f *field) {
	// Proxy-Connection is what old clients send to a proxy instead of Connection.
	c.close = c.close || hasToken(f.value, "close")
	if f.kind != connectionField {
		return
	}
	c.upgrade = c.upgrade || hasToken(f.value, "upgrade")
	tokens(f.value, func(token []byte) bool {
		usual := equalFold(token, "close") || equalFold(token, "keep-alive")
		if !usual {
			c.names = append(append(c.names, token...), ',')
		}
		return true
	})
}

// named reports whether a Connection field names f. Host and what frames the message
// belong to every recipient and can't be named away (RFC 9110, section 7.6.1).
func named(names []byte, f *field) bool {
	switch f.kind {
	case hostField, contentLengthField, transferEncodingField, connectionField, upgradeField, teField:
		return false
	}
	for len(names) > 0 { // without blanks, see readConnection
		var name []byte
		name, names, _ = bytes.Cut(names, []byte{','})
		if len(name) == len(f.name) && bytes.EqualFold(name, f.name) {
			return true
		}
	}
	return false
}

// readLength accepts a list of equal numbers (RFC 9110, section 8.6).
func (c *control) readLength(value []byte) error {
	err := errLength // an empty value is no number
	tokens(value, func(token []byte) bool {
		n, ok := parseDigits(token)
		if !ok || c.hasLength && n != c.length {
			err = errLength
			return false
		}
		c.hasLength, c.length, err = true, n, nil
		return true
	})
	return err
}

// readTransferEncoding accepts chunked, once and last. Another coding could not be
// kept, since it applies to one hop only, and we do not decode any.
func (c *control) readTransferEncoding(value []byte) error {
	err := errNotLastChunked // an empty list
	tokens(value, func(token []byte) bool {
		switch {
		case c.hasTE: // something comes after chunked
			err = errNotLastChunked
		case !equalFold(token, "chunked"):
			err = errCoding
		default:
			c.hasTE, err = true, nil
		}
		return err == nil
	})
	return err
}

// request decides the framing of a request.
func (c *control) request(minor int) error {
	switch {
	case c.hasTE && c.hasLength:
		return errLengthAndTE
	case c.hasTE && minor == 0:
		return errTEInHTTP10
	case c.hasTE:
		c.kind = chunked
	case c.hasLength:
		c.kind = knownLength
	default:
		c.kind = noContent
	}
	return nil
}

// response decides the framing of a response to method. A faulty one that can still
// be read in one way sets close, so that nothing after it is believed.
func (c *control) response(minor, status int, method string) {
	c.pads = true
	switch {
	case hasNoContent(status, method):
		c.kind = noContent
	case c.hasTE:
		c.kind = chunked
	case c.hasLength:
		c.kind = knownLength
	default:
		c.kind = closeFramed
	}
	if status == http.StatusSwitchingProtocols {
		c.switches()
	}
	// RFC 9112, section 9.3: we keep no HTTP/1.0 connection.
	if minor == 0 || c.kind == closeFramed || c.hasTE && c.hasLength {
		c.close = true
	}
}

// switches makes a 101 one that leaves with Connection: Upgrade even if it came without: its meaning is
// clear, and clients insist on that (RFC 9110, section 7.8).
func (c *control) switches() { c.upgrade = !c.untunnellable }

// hasNoContent is RFC 9112, section 6.3, items 1 and 2.
func hasNoContent(status int, method string) bool {
	return method == "HEAD" || status/100 == 1 || status == 204 || status == 304 || isTunnel(status, method)
}

// isTunnel reports whether a response makes a tunnel of its connection (RFC 9110, section 9.3.6).
func isTunnel(status int, method string) bool { return method == "CONNECT" && status/100 == 2 }

// checkHost enforces RFC 9112, section 3.2.
func (c *control) checkHost(minor int) error {
	if c.hosts > 1 || c.hosts == 0 && minor > 0 {
		return errHostCount
	}
	if !validAuthority(c.host) {
		return errHostValue
	}
	return nil
}

// tunnellable reports whether an Upgrade field names something that a relay can carry
// without becoming blind to what it has to see: not cleartext HTTP/2, not TLS.
func tunnellable(value []byte) bool {
	ok := false
	tokens(value, func(token []byte) bool {
		ok = upgradable(token)
		return !ok
	})
	return ok
}

// onlyProtocol returns the protocol that fields ask to upgrade to, "" if that is not one.
func onlyProtocol(fields []field) (protocol string) {
	n := 0
	for i := range fields {
		if fields[i].kind != upgradeField {
			continue
		}
		tokens(fields[i].value, func(token []byte) bool {
			if upgradable(token) {
				protocol = string(token)
				n++
			}
			return true
		})
	}
	if n != 1 {
		return ""
	}
	return protocol
}

func upgradable(token []byte) bool {
	return !equalFold(token, "h2c") && !hasFoldPrefix(token, "http/") && !hasFoldPrefix(token, "tls/")
}

func hasFoldPrefix(b []byte, lower string) bool {
	return len(b) >= len(lower) && equalFold(b[:len(lower)], lower)
}

// bindsConnection reports whether a scheme authenticates the connection, not a request.
func bindsConnection(value []byte) bool {
	return hasFoldPrefix(value, "ntlm") || hasFoldPrefix(value, "negotiate")
}

// parseDigits reads 1*DIGIT: no sign, no space, no overflow.
func parseDigits(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// statusLine is a parsed status line (RFC 9112, section 4).
type statusLine struct {
	minor  int
	code   int
	reason []byte
}

var errStatusLine = errors.New("invalid status line (RFC 9112, section 4)")

func parseStatusLine(b []byte) (s statusLine, err error) {
	const shortest = len("HTTP/1.1 200")
	if len(b) < shortest || string(b[:7]) != "HTTP/1." || b[8] != ' ' {
		return s, errStatusLine
	}
	code, ok := parseDigits(b[9:12])
	if !ok || code < 100 || b[7] < '0' || b[7] > '9' {
		return s, errStatusLine
	}
	s.minor, s.code = min(int(b[7]-'0'), 1), int(code)
	if len(b) > shortest {
		s.reason = b[shortest+1:]
		if b[shortest] != ' ' || !validValue(s.reason) {
			return s, errStatusLine
		}
	}
	return s, nil
}
