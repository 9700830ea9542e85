package mitm

import (
	"bytes"
	"errors"
	"slices"
	"strings"
)

// Errors of a message head. Their texts are shown to whoever sent it.
var (
	errFieldName     = errors.New("field name is not a token (RFC 9110, section 5.1)")
	errFieldSpace    = errors.New("whitespace between field name and colon (RFC 9112, section 5.1)")
	errFieldColon    = errors.New("field line without a colon")
	errFieldValue    = errors.New("control character in field value (RFC 9110, section 5.5)")
	errFieldFold     = errors.New("line folding in field value (RFC 9112, section 5.2)")
	errFieldsFirst   = errors.New("whitespace before the first field line (RFC 9112, section 2.2)")
	errBareCR        = errors.New("CR without LF in message head (RFC 9112, section 2.2)")
	errTooManyFields = errors.New("too many field lines")
	errHeadTooLarge  = errors.New("message head too large")
)

// fieldKind names the fields that an intermediary must understand.
type fieldKind uint8

const (
	endToEnd fieldKind = iota // everything that is just passed on
	hostField
	contentLengthField
	transferEncodingField
	connectionField
	keepAliveField
	proxyConnectionField
	proxyAuthorizationField
	ownCredentialsField // one that is for the proxy itself, see consumeCredentials
	teField
	trailerField
	upgradeField
	http2SettingsField
	expectField
	maxForwardsField
	viaField
	dateField
	authorizationField
	wwwAuthenticateField
	proxyAuthenticateField
)

// knownFields is indexed by the length of the name, which tells most names apart.
var knownFields = [...][]struct {
	name string
	kind fieldKind
}{
	2:  {{"te", teField}},
	3:  {{"via", viaField}},
	4:  {{"host", hostField}, {"date", dateField}},
	6:  {{"expect", expectField}},
	7:  {{"trailer", trailerField}, {"upgrade", upgradeField}},
	10: {{"connection", connectionField}, {"keep-alive", keepAliveField}},
	12: {{"max-forwards", maxForwardsField}},
	13: {{"authorization", authorizationField}},
	14: {{"content-length", contentLengthField}, {"http2-settings", http2SettingsField}},
	16: {{"proxy-connection", proxyConnectionField}, {"www-authenticate", wwwAuthenticateField}},
	17: {{"transfer-encoding", transferEncodingField}},
	18: {{"proxy-authenticate", proxyAuthenticateField}},
	19: {{"proxy-authorization", proxyAuthorizationField}},
}

func kindOf(name []byte) fieldKind {
	if len(name) >= len(knownFields) {
		return endToEnd
	}
	for _, known := range knownFields[len(name)] {
		if equalFold(name, known.name) {
			return known.kind
		}
	}
	return endToEnd
}

// field is one field line. Its slices point into the buffer that it was read from.
type field struct {
	line  []byte // as received, without the line end
	name  []byte
	value []byte // without the whitespace around it
	kind  fieldKind
}

// head is a message head, parsed where it was read.
type head struct {
	start  []byte // request line or status line, without the line end
	fields []field
}

func hasField(fields []field, kind fieldKind) bool {
	return slices.ContainsFunc(fields, func(f field) bool { return f.kind == kind })
}

// headEnd returns the length of the head that b starts with, or 0 if its end is not
// there yet; scanned is how much of b an earlier call has already looked at.
func headEnd(b []byte, scanned int) int {
	for i := max(0, scanned-2); ; {
		lf := bytes.IndexByte(b[i:], '\n')
		if lf < 0 {
			return 0
		}
		i += lf + 1
		if i < len(b) && b[i] == '\n' {
			return i + 1
		}
		if i+1 < len(b) && b[i] == '\r' && b[i+1] == '\n' {
			return i + 2
		}
	}
}

// cutLine takes one line from b. A line may end in LF alone (RFC 9112, section 2.2);
// a CR anywhere else is an error.
func cutLine(b []byte) (line, rest []byte, err error) {
	line, rest, _ = bytes.Cut(b, []byte{'\n'})
	line = bytes.TrimSuffix(line, []byte{'\r'})
	if bytes.IndexByte(line, '\r') >= 0 {
		err = errBareCR
	}
	return line, rest, err
}

// parse reads a complete head. A folded line is joined by spaces, in place, where
// unfold allows it (RFC 9112, section 5.2: never in a request).
func (h *head) parse(b []byte, unfold bool, limit int) (err error) {
	if unfold {
		unfoldLines(b)
	}
	h.fields = h.fields[:0]
	if h.start, b, err = cutLine(b); err != nil {
		return err
	}
	if len(b) > 0 && isBlank(b[0]) {
		return errFieldsFirst
	}
	h.fields, err = parseFields(h.fields, b, limit)
	return err
}

// parseFields reads field lines up to the empty line that ends them.
func parseFields(fields []field, b []byte, limit int) ([]field, error) {
	for {
		line, rest, err := cutLine(b)
		if err != nil || len(line) == 0 {
			return fields, err
		}
		if len(fields) == limit {
			return fields, errTooManyFields
		}
		f, err := parseField(line)
		if err != nil {
			return fields, err
		}
		fields, b = append(fields, f), rest
	}
}

func parseField(line []byte) (field, error) {
	if isBlank(line[0]) {
		return field{}, errFieldFold
	}
	colon := bytes.IndexByte(line, ':')
	if colon < 0 {
		return field{}, errFieldColon
	}
	f := field{line: line, name: line[:colon], value: trimBlanks(line[colon+1:])}
	if colon > 0 && isBlank(line[colon-1]) {
		return field{}, errFieldSpace
	}
	if !isToken(f.name) {
		return field{}, errFieldName
	}
	if !validValue(f.value) {
		return field{}, errFieldValue
	}
	f.kind = kindOf(f.name)
	return f, nil
}

// unfoldLines replaces each line end that a space or tab follows by spaces, and
// whitespace before a colon is moved behind it: both only in responses, where the
// proxy has to repair (RFC 9112, sections 5.1 and 5.2).
func unfoldLines(b []byte) {
	for i := bytes.IndexByte(b, '\n') + 1; i > 0 && i < len(b); {
		end := bytes.IndexByte(b[i:], '\n')
		if end < 0 {
			return
		}
		if isBlank(b[i]) && headerStarted(b[:i]) {
			b[i-1] = ' '
			if b[i-2] == '\r' {
				b[i-2] = ' '
			}
		} else {
			moveBlanks(b[i : i+end])
		}
		i += end + 1
	}
}

// headerStarted reports whether b holds more than the start line: nothing folds into it.
func headerStarted(b []byte) bool {
	return bytes.IndexByte(b, '\n') < len(b)-1
}

// moveBlanks turns "Name  : v" into "Name:   v", in place.
func moveBlanks(line []byte) {
	colon := bytes.IndexByte(line, ':')
	end := colon
	for end > 0 && isBlank(line[end-1]) {
		end--
	}
	if end > 0 && end < colon {
		line[colon], line[end] = ' ', ':'
	}
}

// tokens calls yield for each element of a comma-separated list.
func tokens(list []byte, yield func(token []byte) bool) {
	for len(list) > 0 {
		var token []byte
		token, list, _ = bytes.Cut(list, []byte{','})
		if token = trimBlanks(token); len(token) > 0 && !yield(token) {
			return
		}
	}
}

// hasToken reports whether a comma-separated list has the element, in any case.
func hasToken(list []byte, want string) bool {
	for len(list) > 0 {
		var token []byte
		token, list, _ = bytes.Cut(list, []byte{','})
		if equalFold(trimBlanks(token), want) {
			return true
		}
	}
	return false
}

// allowedInTrailer reports whether a field may come after the content: nothing that
// frames, routes or authenticates (RFC 9110, section 6.5.1).
func allowedInTrailer(f *field) bool {
	switch f.kind {
	case endToEnd, dateField, viaField:
		return !equalFold(f.name, "set-cookie") && !equalFold(f.name, "cookie") &&
			!equalFold(f.name, "content-encoding") && !equalFold(f.name, "content-type") &&
			!equalFold(f.name, "content-range")
	}
	return false
}

// mayTrail is allowedInTrailer for a name in a Trailer field (RFC 9110, section 6.6.2).
func mayTrail[T []byte | string](name T) bool {
	f := field{name: []byte(name)}
	f.kind = kindOf(f.name)
	return isToken(name) && allowedInTrailer(&f)
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

func trimBlanks(b []byte) []byte {
	for len(b) > 0 && isBlank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isBlank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// validValue refuses control characters other than HTAB; bytes from 0x80 on are
// opaque and pass (RFC 9110, section 5.5).
func validValue[T []byte | string](b T) bool {
	for i := range len(b) {
		if c := b[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isToken is RFC 9110, section 5.6.2.
func isToken[T []byte | string](b T) bool {
	for i := range len(b) {
		if !tokenBytes[b[i]] {
			return false
		}
	}
	return len(b) > 0
}

var tokenBytes = func() (set [256]bool) {
	for c := range set {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		set[c] = letter || c >= '0' && c <= '9' || c > 0 && strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return set
}()

// equalFold compares an ASCII name with one that is written in lower case.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i := range len(b) {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
