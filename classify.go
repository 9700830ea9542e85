package mitm

import "bytes"

// preface is how a client begins HTTP/2 (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// classify reports what b is the beginning of. It is not sure as long as more bytes could make
// it something else; once it is sure, more bytes change nothing.
//
// What it calls HTTP is more than what the proxy can read: also what a lenient server would take
// for a request, which is then refused. See [lineProtocol].
func classify(b []byte) (proto Protocol, sure bool) {
	if len(b) == 0 {
		return Unknown, false
	}
	if proto, sure := classifyTLS(b); proto == TLS {
		return proto, sure
	}
	if proto, sure := classifySSL2(b); proto == TLS {
		return proto, sure
	}
	if mayBePreface(b) && len(b) > 2 {
		return HTTP2, len(b) >= len(preface)
	}
	line, _, whole := bytes.Cut(skipLeading(b), []byte{'\n'})
	return lineProtocol(line, whole)
}

// mayBePreface reports whether b is the preface of HTTP/2, what comes behind it, or a part of it.
func mayBePreface(b []byte) bool {
	n := min(len(b), len(preface))
	return string(b[:n]) == preface[:n]
}

// classifyEnd is classify for bytes that no more will follow.
func classifyEnd(b []byte) Protocol {
	if proto, sure := classify(b); sure {
		return proto
	}
	proto, _ := lineProtocol(skipLeading(b), true)
	return proto
}

// classifyLong is classify for a first line that is too long to be read to its end. One that a
// server might take for a request is HTTP, so that it is refused as that.
func classifyLong(b []byte) Protocol {
	line := skipLeading(b)
	if method, _ := cutWord(line); classifyEnd(b) == HTTP1 || isToken(method) {
		return HTTP1
	}
	return Other
}

// classifyTLS recognises a ClientHello by the type of its record and of its message (RFC 8446,
// sections 4 and 5.1), whatever else is wrong with it. TLS libraries let empty records, warnings and,
// as GnuTLS does, change_cipher_spec precede it, and take any version below 16.
func classifyTLS(b []byte) (Protocol, bool) {
	const most = 64 // no library takes as many
	for range most {
		if len(b) > 0 && sizeAhead(b[0]) == 0 && b[0] != recordHandshake || len(b) > 1 && b[1] >= 0x10 {
			return Other, true
		}
		if len(b) < recordHeader {
			return TLS, false
		}
		size, rest := int(b[3])<<8|int(b[4]), b[recordHeader:]
		switch ahead := sizeAhead(b[0]); {
		case ahead > 0 && size != ahead:
			return Other, true
		case len(rest) < ahead, b[0] == recordHandshake && size > 0 && len(rest) == 0:
			return TLS, false
		case b[0] == recordHandshake && size > 0 && rest[0] != messageClientHello:
			return Other, true
		case b[0] == recordHandshake && size > 0:
			return TLS, true
		}
		b = rest[size:]
	}
	return TLS, true
}

// sizeAhead returns how long the content of a record is that may precede a ClientHello, 0 for other types.
func sizeAhead(record byte) int {
	switch record {
	case recordAlert:
		return alertSize
	case recordChangeCipher:
		return 1
	}
	return 0
}

// classifySSL2 recognises a ClientHello in the form of SSL 2.0, which servers may take and answer in TLS
// (RFC 5246, appendix E.2). crypto/tls does not. Its lengths are what tells it from other protocols.
func classifySSL2(b []byte) (Protocol, bool) {
	const header, fixed, most = 2, 9, 16 << 10
	var hello [header + fixed]byte
	n := copy(hello[:], b)
	number := func(at int) int { return int(hello[at])<<8 | int(hello[at+1]) }
	size := number(0) &^ 0x8000
	switch {
	case n > 0 && (hello[0] < 0x80 || size >= most), n > 2 && hello[2] != messageClientHello, n > 3 && hello[3] != 3:
		return Other, true
	case n < len(hello):
		return TLS, false
	case size != fixed+number(5)+number(7)+number(9):
		return Other, true
	}
	return TLS, true
}

// lineProtocol reports whether a server might take line, which begins with its first word, for a
// request line. It is HTTP1 if
//
//   - a word behind the first begins with HTTP/, in any case,
//   - the second word begins with a slash or an asterisk or contains ://, or
//   - the first is CONNECT and the second is host:port;
//
// The latter two do not count if the last word is the version of another protocol, see
// isOtherRequest. Words are separated by whatever any server takes for a blank. A byte that is not
// text shows a binary protocol at once, unless the line begins with a method of HTTP.
//
// It is sure before the line is whole only if nothing could change that.
func lineProtocol(line []byte, whole bool) (proto Protocol, sure bool) {
	method, rest := cutWord(line)
	switch {
	case binaryAt(method) < len(method):
		return Other, true
	case !whole && len(rest) == 0:
		return Unknown, false
	}
	target, rest := cutWord(rest)
	last, isTarget, anyByte := target, mayBeTarget(method, target), isMethod(method)
	if !anyByte { // what came before the first byte that is not text decides what that means
		isTarget = mayBeTarget(method, target[:binaryAt(target)])
	}
	for word := target; len(word) > 0; word, rest = cutWord(rest) {
		if hasFoldPrefix(word, "http/") {
			return HTTP1, true
		}
		if n := binaryAt(word); !anyByte && n < len(word) && (!isTarget || bytes.IndexByte(word, 0) >= 0) {
			return Other, true
		}
		last = word
	}
	switch {
	case whole && isTarget && !isOtherRequest(method, last):
		return HTTP1, true
	case whole:
		return Other, true
	}
	return Unknown, false
}

// mayBeTarget reports whether a request may be for target.
func mayBeTarget(method, target []byte) bool {
	switch {
	case len(target) == 0:
		return false
	case target[0] == '/', target[0] == '*', bytes.Contains(target, []byte("://")):
		return true
	}
	colon := bytes.LastIndexByte(target, ':')
	return colon > 0 && equalFold(method, "connect") && parsePort(target[colon+1:]) > 0
}

// isOtherRequest reports whether a request line with this method and version is one of a protocol whose
// requests look like those of HTTP: RTSP (RFC 7826), SIP (RFC 3261) or that of Icecast's sources. They
// have no method of HTTP but OPTIONS: servers of HTTP answer a GET with such a version.
func isOtherRequest(method, version []byte) bool {
	if isMethod(method) && !equalFold(method, "options") {
		return false
	}
	for _, name := range [...]string{"rtsp/", "sip/", "ice/"} {
		if hasFoldPrefix(version, name) && len(version) > len(name) {
			return true
		}
	}
	return false
}

// binaryAt returns where the first byte of b is that is not text, NUL or one of 8 bits, or else len(b).
func binaryAt(b []byte) int {
	for i, c := range b {
		if c == 0 || c >= 0x80 {
			return i
		}
	}
	return len(b)
}

// beginsBinary reports whether b begins with a control byte that is no blank, nor the type of a TLS record.
// Some servers of HTTP skip it; who does not look for HTTP need not wait for what follows.
func beginsBinary(b []byte) bool {
	return len(b) > 0 && b[0] < ' ' && b[0] != '\n' && !isAnyBlank(b[0]) && !isRecord(b[0])
}

// isRecord reports whether a ClientHello, and what may stand before it, can begin with this type of record.
func isRecord(kind byte) bool {
	return kind == recordHandshake || kind == recordAlert || kind == recordChangeCipher
}

// skipLeading returns b without what servers skip before a request line: blanks and control bytes but
// NUL, with which many binary protocols begin.
func skipLeading(b []byte) []byte {
	for len(b) > 0 && (b[0] > 0 && b[0] <= ' ' || isAnyBlank(b[0])) {
		b = b[1:]
	}
	return b
}

// cutWord returns the first word of b, and what follows, which begins with a blank or is empty.
func cutWord(b []byte) (word, rest []byte) {
	for len(b) > 0 && isAnyBlank(b[0]) {
		b = b[1:]
	}
	for i, c := range b {
		if isAnyBlank(c) {
			return b[:i], b[i:]
		}
	}
	return b, nil
}

// isAnyBlank reports whether any server parts words by c: beside ASCII's white space Python's does
// so by its information separators and, in Latin-1, NEL and NBSP.
func isAnyBlank(c byte) bool {
	switch c {
	case ' ', '\t', '\v', '\f', '\r', 0x1c, 0x1d, 0x1e, 0x1f, 0x85, 0xa0:
		return true
	}
	return false
}

// methods are the registered ones (IANA, HTTP Method Registry) but for the asterisk, in the order of
// their lengths.
var methods = [...]string{
	"get", "put", "acl", "pri", "head", "post", "copy", "move", "lock", "bind", "link", "trace", "patch", "merge",
	"label", "mkcol", "query", "delete", "search", "report", "rebind", "unbind", "unlink", "unlock", "update",
	"options", "connect", "checkin", "checkout", "propfind", "proppatch", "mkactivity", "mkcalendar", "orderpatch",
	"uncheckout", "mkworkspace", "mkredirectref", "version-control", "baseline-control", "updateredirectref",
}

func isMethod(word []byte) bool {
	for _, m := range methods {
		if equalFold(word, m) {
			return true
		}
	}
	return false
}
