package mitm

import (
	"bytes"
	"errors"
	"net"
	"strconv"
)

// Why a request line is refused. The texts are for whoever sent the request: the engine answers errVersion
// with 505, errScheme with 501 and everything else with 400.
var (
	errLine          = errors.New("request line is not a method, one space, a target, one space and a version")
	errMethod        = errors.New("method in request line is not a token")
	errNoVersion     = errors.New("request line has no HTTP version")                          // HTTP/0.9
	errVersionSyntax = errors.New("version in request line is not HTTP/x.y")                   // case counts
	errVersion       = errors.New("HTTP version in request line is not 1.x")                   // well formed, not ours
	errTargetByte    = errors.New("request target has a control or 8-bit byte")                // space ends the target
	errFragment      = errors.New("request target has a fragment")                             // CVE-2023-45539
	errTarget        = errors.New("request target is neither a path nor an http or https URI") // RFC 9112, section 3.2
	errAsterisk      = errors.New("request target * is only for OPTIONS")                      // section 3.2.4
	errConnect       = errors.New("request target of CONNECT is not host:port")                // section 3.2.3
	errScheme        = errors.New("scheme of request target is not http or https")
	errUserinfo      = errors.New("request target has user information before the host") // RFC 9110, section 4.2.4
	errHost          = errors.New("host in request target is empty, malformed or longer than 255 bytes")
	errPort          = errors.New("port in request target is missing or not in 1..65535")
)

// maxHostLen is what a domain name may take (RFC 1035, section 2.3.4) and SOCKS5 can carry (RFC 1928, section 5).
const maxHostLen = 255

// targetForm is one of the four forms of a request target (RFC 9112, section 3.2).
type targetForm uint8

const (
	originForm    targetForm = iota // /path?query
	absoluteForm                    // http://host/path?query
	authorityForm                   // host:port, of CONNECT
	asteriskForm                    // *, of OPTIONS
)

// requestLine is a request line that was read in the only way it can be read. Its slices point into that line.
type requestLine struct {
	method []byte // as received: methods are case-sensitive (RFC 9110, section 9.1)
	target []byte // as received, byte for byte
	minor  int    // HTTP/1.minor, 0 or 1: a higher one is understood as the 1 we speak (RFC 9110, section 2.5)
	form   targetForm

	// Of absolute- and authority-form; zero in the others, which name no host.
	https    bool   // the scheme is https
	host     []byte // as received but without brackets, so a zone is still percent-encoded
	port     uint16 // never 0: the scheme's default if the target has none
	portText []byte // the port as received, empty if there was none

	path []byte // path and query as received; in absolute-form it may be empty or start with '?'
}

// parseRequestLine parses line, which has lost its line end (RFC 9112, section 3). Only a single SP separates
// the parts: section 3 tolerates more, but a target with whitespace is where two parsers come to differ.
func parseRequestLine(line []byte) (requestLine, error) {
	method, rest, _ := bytes.Cut(line, []byte(" "))
	target, version, _ := bytes.Cut(rest, []byte(" "))
	if len(method) == 0 || len(target) == 0 || bytes.IndexByte(version, ' ') >= 0 {
		return requestLine{}, errLine
	}
	if !methodBytes.hasAll(method) {
		return requestLine{}, errMethod
	}
	if err := checkTargetBytes(target); err != nil {
		return requestLine{}, err
	}
	// The version comes before the form of the target, since the form is a matter of HTTP/1 only: the preface of
	// HTTP/2 reads "PRI * HTTP/2.0".
	minor, err := parseVersion(version)
	if err != nil {
		return requestLine{}, err
	}
	r := requestLine{method: method, target: target, minor: minor}
	if err := r.parseTarget(); err != nil {
		return requestLine{}, err
	}
	return r, nil
}

// checkTargetBytes refuses what no form of a target may hold (RFC 9112, section 3.2). A fragment, which a client
// must not send, is where routing and origin server would read different paths. Other bytes that a URI may not
// have, such as '|' or a '%' without digits, pass: browsers send them and it is not for us to repair them.
func checkTargetBytes(target []byte) error {
	for _, c := range target {
		switch {
		case c <= ' ' || c >= 0x7f:
			return errTargetByte
		case c == '#':
			return errFragment
		}
	}
	return nil
}

// parseVersion returns the minor version (RFC 9112, section 2.3).
func parseVersion(b []byte) (minor int, err error) {
	if len(b) == 0 {
		return 0, errNoVersion
	}
	digits, ok := bytes.CutPrefix(b, []byte("HTTP/"))
	if !ok || len(digits) != 3 || !isDigit(digits[0]) || digits[1] != '.' || !isDigit(digits[2]) {
		return 0, errVersionSyntax
	}
	if digits[0] != '1' {
		return 0, errVersion
	}
	return min(int(digits[2]-'0'), 1), nil
}

// parseTarget finds out the form of the target (RFC 9112, section 3.2). CONNECT decides first, as it alone has the
// authority-form and has no other. "//path" is in origin-form: without a scheme there is no authority.
func (r *requestLine) parseTarget() error {
	switch {
	case string(r.method) == "CONNECT":
		return r.parseAuthorityForm()
	case r.target[0] == '/':
		r.form, r.path = originForm, r.target
	case string(r.target) != "*":
		return r.parseAbsoluteForm()
	case string(r.method) != "OPTIONS": // RFC 9112, section 3.2.4
		return errAsterisk
	default:
		r.form, r.path = asteriskForm, r.target
	}
	return nil
}

// parseAuthorityForm parses the host and the port of a CONNECT, neither of which has a default
// (RFC 9110, section 9.3.6). What looks like another form is told apart from a bad host or port.
func (r *requestLine) parseAuthorityForm() (err error) {
	if bytes.ContainsAny(r.target, "/?") || string(r.target) == "*" {
		return errConnect
	}
	r.form = authorityForm
	r.host, r.portText, r.port, err = splitAuthority(r.target)
	if err == nil && r.port == 0 {
		return errPort
	}
	return err
}

// parseAbsoluteForm parses an http or https URI (RFC 9110, sections 4.2.1 and 4.2.2).
func (r *requestLine) parseAbsoluteForm() (err error) {
	rest, defaultPort, err := r.cutScheme()
	if err != nil {
		return err
	}
	rest, ok := bytes.CutPrefix(rest, []byte("//"))
	if !ok {
		return errTarget
	}
	authority, path := cutBefore(rest, "/?")
	r.form, r.path = absoluteForm, path
	r.host, r.portText, r.port, err = splitAuthority(authority)
	if r.port == 0 {
		r.port = defaultPort
	}
	return err
}

// cutScheme returns what follows the scheme of the target and its colon, and the default port of the scheme.
// Schemes are case-insensitive (RFC 9110, section 4.2.3).
func (r *requestLine) cutScheme() (rest []byte, defaultPort uint16, err error) {
	scheme, rest, ok := bytes.Cut(r.target, []byte(":"))
	switch {
	case !ok || !schemeBytes.hasAll(scheme) || len(scheme) == 0 || scheme[0] < 'A':
		// A scheme starts with a letter (RFC 3986, section 3.1); its other bytes are all below 'A'.
		return nil, 0, errTarget
	case bytes.EqualFold(scheme, []byte("http")):
		return rest, 80, nil
	case bytes.EqualFold(scheme, []byte("https")):
		r.https = true
		return rest, 443, nil
	case parsePort(rest) != 0:
		// "example.com:443" has the syntax of a URI too, but must have been meant as an authority.
		return nil, 0, errTarget
	default:
		return nil, 0, errScheme
	}
}

// appendAuthority appends the authority of the target for the Host field, which it replaces (RFC 9112,
// section 3.2.2). Spelling and port stay as received, but the zone goes: it means something on the client's
// machine only (RFC 6874, section 4). Targets without an authority append nothing.
func (r *requestLine) appendAuthority(dst []byte) []byte {
	address, _ := cutZone(r.host)
	if isIPv6(address) {
		dst = append(append(append(dst, '['), address...), ']')
	} else {
		dst = append(dst, address...)
	}
	if len(r.portText) > 0 {
		dst = append(append(dst, ':'), r.portText...)
	}
	return dst
}

// appendOriginForm appends the target for an origin server (RFC 9112, sections 3.2.1 and 3.2.4): the path and query as
// received, made to start with '/', or "*". A CONNECT has no such form and must not be passed.
func (r *requestLine) appendOriginForm(dst []byte) []byte {
	switch {
	case len(r.path) == 0 && string(r.method) == "OPTIONS":
		return append(dst, '*')
	case len(r.path) == 0 || r.path[0] == '?':
		dst = append(dst, '/')
	}
	return append(dst, r.path...)
}

// hostPort returns where to connect to, in the form of [net.JoinHostPort] and with the host in lower case
// (RFC 9110, section 4.2.3). A zone is decoded, and keeps its case since names of interfaces have one.
// The result is empty if the target names no host.
func (r *requestLine) hostPort() string {
	if r.port == 0 {
		return ""
	}
	address, zone := cutZone(r.host)
	host := bytes.ToLower(address)
	if len(zone) > 0 {
		host = append(append(host, '%'), zone...)
	}
	return net.JoinHostPort(string(host), strconv.Itoa(int(r.port)))
}

// validAuthority reports whether b may be the value of a Host field: uri-host [ ":" port ], or nothing
// (RFC 9110, section 7.2).
func validAuthority(b []byte) bool {
	_, _, _, err := splitAuthority(b)
	return err == nil || len(b) == 0
}

// splitAuthority splits and checks an authority (RFC 3986, section 3.2). The host comes without brackets; port is
// 0 and portText empty if there is none, or nothing after the colon. Userinfo is an error, as it can only
// mislead (RFC 9110, section 4.2.4), and so is an empty host (section 4.2.1).
func splitAuthority(b []byte) (host, portText []byte, port uint16, err error) {
	if bytes.IndexByte(b, '@') >= 0 {
		return nil, nil, 0, errUserinfo
	}
	host, rest, ok := cutHost(b)
	if !ok || len(host) > maxHostLen {
		return nil, nil, 0, errHost
	}
	if len(rest) <= len(":") {
		return host, nil, 0, nil
	}
	portText = rest[1:]
	if port = parsePort(portText); port == 0 {
		return nil, nil, 0, errPort
	}
	return host, portText, port, nil
}

// cutHost returns the host without brackets, and the rest, which is empty or starts with the colon of the port.
func cutHost(b []byte) (host, rest []byte, ok bool) {
	if literal, found := bytes.CutPrefix(b, []byte("[")); found {
		host, rest, ok = bytes.Cut(literal, []byte("]"))
		return host, rest, ok && validIPLiteral(host) && (len(rest) == 0 || rest[0] == ':')
	}
	host, rest = cutBefore(b, ":")
	return host, rest, validRegName(host)
}

// cutBefore splits b before the first of the delimiters; rest is empty if there is none.
func cutBefore(b []byte, delimiters string) (before, rest []byte) {
	if i := bytes.IndexAny(b, delimiters); i >= 0 {
		return b[:i], b[i:]
	}
	return b, nil
}

// parsePort returns 0 for what is no port of 1 to 5 digits. Leading zeros are legal (RFC 3986, section 3.2.3)
// but only up to that length, which bounds the text that is sent on.
func parsePort(b []byte) uint16 {
	if len(b) > len("65535") {
		return 0
	}
	port, err := strconv.ParseUint(string(b), 10, 16)
	if err != nil {
		return 0
	}
	return uint16(port)
}

// validRegName reports whether b is a registered name (RFC 3986, section 3.2.2) and not empty. An IPv4 address
// looks like one. Percent-encoded bytes are checked but never decoded, so they can't turn into delimiters.
func validRegName(b []byte) bool {
	for i := 0; i < len(b); i++ {
		switch {
		case b[i] == '%' && i+2 < len(b) && hexBytes[b[i+1]] && hexBytes[b[i+2]]:
			i += 2
		case !hostBytes[b[i]]:
			return false
		}
	}
	return len(b) > 0
}

// validIPLiteral reports whether b is what may stand in brackets: an IPv6 address with or without a zone.
// Nothing is known of IPvFuture (RFC 3986, section 3.2.2) that one could connect to. A zone may not be
// percent-encoded itself, although RFC 6874 allows it: decoding must not bring delimiters to light.
func validIPLiteral(b []byte) bool {
	address, zone, ok := bytes.Cut(b, zoneMark)
	return validIPv6(address) && (!ok || len(zone) > 0 && zoneBytes.hasAll(zone))
}

// zoneMark separates an IPv6 address from its zone; a bare '%' does not (RFC 6874, section 2).
var zoneMark = []byte("%25")

// cutZone splits a valid host. In a registered name "%25" has no such meaning.
func cutZone(host []byte) (address, zone []byte) {
	if !isIPv6(host) {
		return host, nil
	}
	address, zone, _ = bytes.Cut(host, zoneMark)
	return address, zone
}

// isIPv6 reports whether a valid host is an IPv6 address: a registered name has no colon.
func isIPv6(host []byte) bool { return bytes.IndexByte(host, ':') >= 0 }

// validIPv6 accepts what [net/netip.ParseAddr] does, which would allocate: eight groups of 16 bits, or fewer with
// one "::" (RFC 4291, section 2.2).
func validIPv6(b []byte) bool {
	head, tail, compressed := bytes.Cut(b, []byte("::"))
	if !compressed {
		return ipv6Groups(b, true) == 8
	}
	// "::" stands for one group at least, and an IPv4 address may only come after it.
	return ipv6Groups(head, false)+ipv6Groups(tail, true) < 8
}

// ipv6Groups counts the groups of 16 bits in b, two of them for an IPv4 address at the end if dotted allows one
// (RFC 4291, section 2.2, item 3). Whatever is malformed counts as more groups than an address can have.
func ipv6Groups(b []byte, dotted bool) int {
	const malformed = 9
	count := 0
	for more := len(b) > 0; more; {
		var group []byte
		group, b, more = bytes.Cut(b, []byte(":"))
		switch {
		case 1 <= len(group) && len(group) <= 4 && hexBytes.hasAll(group):
			count++
		case dotted && !more && validIPv4(group):
			count += 2
		default:
			return malformed
		}
	}
	return count
}

// validIPv4 reports whether b is four decimal numbers up to 255, none with a leading zero.
func validIPv4(b []byte) bool {
	count := 0
	for more := true; more; count++ {
		var octet []byte
		octet, b, more = bytes.Cut(b, []byte("."))
		if _, err := strconv.ParseUint(string(octet), 10, 8); err != nil || octet[0] == '0' && len(octet) > 1 {
			return false
		}
	}
	return count == 4
}

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

var (
	methodBytes = newByteSet(alphanumeric + "!#$%&'*+-.^_`|~") // token (RFC 9110, section 5.6.2)
	schemeBytes = newByteSet(alphanumeric + "+-.")             // scheme (RFC 3986, section 3.1)
	zoneBytes   = newByteSet(alphanumeric + "-._~")            // unreserved (RFC 3986, section 2.3)
	hostBytes   = newByteSet(alphanumeric + "-._~!$&'()*+,;=") // the same and sub-delims (section 2.2)
	hexBytes    = newByteSet("0123456789abcdefABCDEF")         // HEXDIG (RFC 5234, appendix B.1)
)

// byteSet is a set of bytes, looked up by index.
type byteSet [256]bool

func newByteSet(members string) (s byteSet) {
	for i := range len(members) {
		s[members[i]] = true
	}
	return s
}

func (s *byteSet) hasAll(b []byte) bool {
	for _, c := range b {
		if !s[c] {
			return false
		}
	}
	return true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
