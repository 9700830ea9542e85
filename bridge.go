package mitm

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// This file is the bridge between message heads as they are on the wire and the types
// of net/http that hooks work with: what those lose is kept beside them and merged back.

// Errors of messages that hooks changed.
var (
	errHookMethod = errors.New("method is not a token, or CONNECT")
	errHookTarget = errors.New("URL is not one of http or https, or holds what a request target can't")
	errHookField  = errors.New("field name or value that can't be sent")
	errHookStatus = errors.New("status code that can't be sent")
)

// side is what an exchange has with the client, or with an origin: the head that came from there,
// and the fields that go there. Hooks see nothing of it, so its memory is used again.
type side struct {
	raw    rawHead
	merged merged
}

// sides are those of one exchange.
type sides struct{ near, far side }

// forget keeps nothing but the memory.
func (s *side) forget() {
	r, m := &s.raw, &s.merged
	clear(r.keys[:cap(r.keys)])
	clear(m.fields[:cap(m.fields)])
	clear(m.taken[:cap(m.taken)])
	*r = rawHead{bytes: r.bytes[:0], keys: r.keys[:0]}
	*m = merged{fields: m.fields[:0], taken: m.taken[:0], lines: m.lines[:0]}
}

// rawHead is a message head that outlives the buffer it was read into.
type rawHead struct {
	text   string // what hooks see is a part of it
	bytes  []byte // the same, which fields are parts of
	fields []field
	keys   []string // the names of fields as http.Header has them
}

// keep copies h, whose slices are left pointing to the copy. Before, they are slices of one
// buffer, in which the lines follow each other.
func (r *rawHead) keep(h *head) {
	whole, from := h.start, cap(h.start)
	if n := len(h.fields); n > 0 {
		last := h.fields[n-1].line
		whole = whole[:from-cap(last)+len(last)]
	}
	r.text = string(whole)
	r.bytes = append(r.bytes[:0], whole...)
	moved := func(part []byte) []byte { return r.bytes[from-cap(part):][:len(part)] }
	h.start = moved(h.start)
	for i := range h.fields {
		f := &h.fields[i]
		f.line, f.name, f.value = moved(f.line), moved(f.name), moved(f.value)
	}
	r.fields = h.fields
}

// str returns part, which is a slice of r.bytes, as a string without copying it.
func (r *rawHead) str(part []byte) string { return r.text[cap(r.bytes)-cap(part):][:len(part)] }

// first returns the first field of a kind, or nil.
func (r *rawHead) first(kind fieldKind) *field {
	if r == nil {
		return nil
	}
	i := slices.IndexFunc(r.fields, func(f field) bool { return f.kind == kind })
	if i < 0 {
		return nil
	}
	return &r.fields[i]
}

// fieldRoom is room for the names and the values of as many fields as most messages have.
type fieldRoom [32]string

// lists returns two lists of n strings. To append to one leaves the rest alone.
func (room *fieldRoom) lists(n int) (names, values []string) {
	list := room[:]
	if 2*n > len(list) {
		list = make([]string, 2*n)
	}
	return list[:n:n], list[n : 2*n : 2*n]
}

// show returns the fields that hooks get to see, and all names as they are spelled. What concerns
// this hop alone is left out; an upgrade that can be had is told as net/http tells it.
func (r *rawHead) show(c *control, room *fieldRoom) (h http.Header, names []string) {
	names, values := room.lists(len(r.fields))
	h, r.keys = make(http.Header, len(r.fields)), r.keys[:0]
	for i := range r.fields {
		f := &r.fields[i]
		names[i] = r.str(f.name)
		key := textproto.CanonicalMIMEHeaderKey(names[i])
		r.keys = append(r.keys, key)
		if hidden(f, c) || named(c.names, f) {
			continue
		}
		values[i] = r.str(f.value)
		if old, ok := h[key]; ok {
			h[key] = append(old, values[i])
		} else {
			h[key] = values[i : i+1 : i+1]
		}
	}
	if c.upgrade {
		h["Connection"] = []string{"Upgrade"}
	}
	return h, names
}

// original returns the field that came as the i-th if its name is still the same, and the key of
// name in an http.Header.
func (r *rawHead) original(i int, name string) (old *field, key string) {
	if r == nil || i >= len(r.fields) || string(r.fields[i].name) != name {
		return nil, textproto.CanonicalMIMEHeaderKey(name)
	}
	return &r.fields[i], r.keys[i]
}

func hidden(f *field, c *control) bool {
	switch f.kind {
	case hostField, transferEncodingField, connectionField, keepAliveField, proxyConnectionField,
		ownCredentialsField, http2SettingsField:
		return true
	case upgradeField:
		return !c.upgrade
	case teField:
		return !c.trailers
	}
	return false
}

// merged are the fields of a message as hooks left it.
type merged struct {
	fields  []field
	control control
	taken   []string // a key for every value that was taken
	lines   []byte   // what hooks have added
}

// merge puts header into the order and the spelling of names. A value that did not change
// keeps the line that it came in. What names lacks comes last, sorted.
func (m *merged) merge(header http.Header, names []string, raw *rawHead) error {
	m.fields, m.taken, m.lines = m.fields[:0], m.taken[:0], m.lines[:0]
	for i, name := range names {
		old, key := raw.original(i, name)
		kind := kindOf([]byte(name))
		if kind == hostField || isFraming(kind) {
			m.appendPlaceholder(name, kind, old, raw)
			continue
		}
		values, n := header[key], count(m.taken, key)
		if n == len(values) {
			if kind == connectionField { // a place for what we say there
				m.fields = append(m.fields, field{name: m.bytes(name), kind: connectionField})
			}
			continue
		}
		m.taken = append(m.taken, key)
		if old != nil && string(old.value) == values[n] {
			m.fields = append(m.fields, *old)
			m.fields[len(m.fields)-1].kind = kind // what a hook sets is not for the proxy itself
		} else if err := m.append(name, values[n]); err != nil {
			return err
		}
	}
	return m.appendRest(header)
}

func count(keys []string, key string) (n int) {
	for _, k := range keys {
		if k == key {
			n++
		}
	}
	return n
}

func isFraming(kind fieldKind) bool {
	return kind == contentLengthField || kind == transferEncodingField
}

// appendPlaceholder keeps the place of a field whose value is not the header's to give: old, or
// the one of its kind that a hook moved or spelled anew.
func (m *merged) appendPlaceholder(name string, kind fieldKind, old *field, raw *rawHead) {
	if old == nil {
		old = raw.first(kind)
	}
	switch {
	case old == nil:
	case string(old.name) == name:
		m.fields = append(m.fields, *old)
	default:
		m.append(name, string(old.value)) // unless that can't be sent
	}
}

// appendRest appends the values that were not taken.
func (m *merged) appendRest(header http.Header) error {
	var few [8]string
	rest := few[:0]
	for key, values := range header {
		if count(m.taken, key) < len(values) && !isFraming(kindOf([]byte(key))) {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	for _, key := range rest {
		for _, value := range header[key][count(m.taken, key):] {
			if err := m.append(key, value); err != nil {
				return err
			}
		}
	}
	return nil
}

// append refuses what would change the meaning of the message (RFC 9110, section 5.5).
func (m *merged) append(name, value string) error {
	if !isToken(name) || !validValue(value) {
		return fmt.Errorf("%w: %q", errHookField, name)
	}
	line := m.bytes(name, ": ", value)
	f := field{line: line, name: line[:len(name)], value: trimBlanks(line[len(name)+2:])}
	f.kind = kindOf(f.name)
	m.fields = append(m.fields, f)
	return nil
}

// bytes returns parts as one slice.
func (m *merged) bytes(parts ...string) []byte {
	start := len(m.lines)
	for _, part := range parts {
		m.lines = append(m.lines, part...)
	}
	return m.lines[start:]
}

// newField makes one field that can be sent.
func newField(name, value string) (field, error) {
	var m merged
	if err := m.append(name, value); err != nil {
		return field{}, err
	}
	return m.fields[0], nil
}

// withoutPort leaves a scheme's own port out, as URLs usually do.
func withoutPort(addr, port string) string {
	if host, p, err := net.SplitHostPort(addr); err == nil && p == port {
		if strings.Contains(host, ":") {
			return "[" + host + "]"
		}
		return host
	}
	return addr
}

// announced returns the trailer fields that a Trailer field names, without values. What may be none
// is left out: it does not come, and net/http sends no request that names it.
func announced(header http.Header) (trailer http.Header) {
	for _, list := range header["Trailer"] {
		tokens([]byte(list), func(name []byte) bool {
			if !mayTrail(name) {
				return true
			}
			if trailer == nil {
				trailer = http.Header{}
			}
			trailer[textproto.CanonicalMIMEHeaderKey(string(name))] = nil
			return true
		})
	}
	return trailer
}

// setTrailer fills in what came after the content.
func setTrailer(trailer *http.Header, fields []field) {
	for i := range fields {
		if *trailer == nil {
			*trailer = http.Header{}
		}
		key := textproto.CanonicalMIMEHeaderKey(string(fields[i].name))
		(*trailer)[key] = append((*trailer)[key], string(fields[i].value))
	}
}

// fillTrailer gives what is announced in trailer and has no value the value that came.
func fillTrailer(trailer, came http.Header) {
	for name, values := range trailer {
		if len(values) == 0 {
			trailer[name] = came[name]
		}
	}
}

// mergeTrailers merges trailer back into the order of raw. It is too late to refuse what
// can't be sent, so that is left out.
func mergeTrailers(trailer http.Header, raw []field) []field {
	if len(trailer) == 0 {
		return nil
	}
	names, keys := make([]string, len(raw)), make([]string, len(raw))
	for i := range raw {
		names[i] = string(raw[i].name)
		keys[i] = textproto.CanonicalMIMEHeaderKey(names[i])
	}
	sound := http.Header{}
	for key, values := range trailer {
		if isToken(key) && !slices.ContainsFunc(values, func(v string) bool { return !validValue(v) }) {
			sound[key] = values
		}
	}
	var m merged
	if m.merge(sound, names, &rawHead{fields: raw, keys: keys}) != nil {
		return nil
	}
	return slices.DeleteFunc(m.fields, func(f field) bool { return !allowedInTrailer(&f) })
}
