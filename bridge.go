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

// rawHead is a message head that outlives the buffer it was read into.
type rawHead struct {
	text   string
	bytes  []byte
	fields []field
}

// copyHead copies h, whose slices are left pointing to the copy.
func copyHead(h *head) rawHead {
	n := len(h.start)
	for i := range h.fields {
		n += len(h.fields[i].line)
	}
	b := make([]byte, 0, n)
	moved := func(part []byte) []byte {
		b = append(b, part...)
		return b[len(b)-len(part):]
	}
	r := rawHead{fields: make([]field, len(h.fields))}
	h.start = moved(h.start)
	for i := range h.fields {
		f := h.fields[i]
		value := cap(f.line) - cap(f.value) // where value begins in line
		f.line = moved(f.line)
		f.name, f.value = f.line[:len(f.name)], f.line[value:value+len(f.value)]
		r.fields[i] = f
	}
	r.bytes, r.text = b, string(b)
	return r
}

// names returns the field names as they are spelled.
func (r *rawHead) names() []string {
	names := make([]string, len(r.fields))
	for i := range r.fields {
		names[i] = r.str(r.fields[i].name)
	}
	return names
}

// str returns part, which is a slice of r.bytes, as a string without copying it.
func (r *rawHead) str(part []byte) string {
	at := cap(r.bytes) - cap(part)
	return r.text[at : at+len(part)]
}

// header returns the fields that hooks get to see. What concerns this hop alone is left
// out; an upgrade that can be had is told as net/http tells it.
func (r *rawHead) header(c *control) http.Header {
	h := make(http.Header, len(r.fields))
	values := make([]string, len(r.fields))
	for i := range r.fields {
		f := &r.fields[i]
		if hidden(f, c) || named(c.names, f) {
			continue
		}
		key := textproto.CanonicalMIMEHeaderKey(r.str(f.name))
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
	return h
}

func hidden(f *field, c *control) bool {
	switch f.kind {
	case hostField, transferEncodingField, connectionField, keepAliveField, proxyConnectionField,
		proxyAuthorizationField, http2SettingsField:
		return true
	case upgradeField:
		return !c.upgrade
	case teField:
		return !c.trailers
	}
	return false
}

// merge puts header into the order and the spelling of names. A value that did not change
// keeps the line that it came in. What names lacks comes last, sorted.
func merge(header http.Header, names []string, raw []field) ([]field, error) {
	fields := make([]field, 0, max(len(names), len(header))+2)
	taken := make([]string, 0, len(names)) // a key for every value that was taken
	for i, name := range names {
		var old *field
		if i < len(raw) && string(raw[i].name) == name {
			old = &raw[i]
		}
		kind := kindOf([]byte(name))
		if kind == hostField || isFraming(kind) {
			if f, ok := placeholder(name, kind, old, raw); ok {
				fields = append(fields, f)
			}
			continue
		}
		key := textproto.CanonicalMIMEHeaderKey(name)
		values, n := header[key], count(taken, key)
		if n == len(values) {
			if kind == connectionField { // a place for what we say there
				fields = append(fields, field{name: []byte(name), kind: connectionField})
			}
			continue
		}
		taken = append(taken, key)
		if old != nil && string(old.value) == values[n] {
			fields = append(fields, *old)
			continue
		}
		f, err := newField(name, values[n])
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	return appendRest(fields, header, taken)
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

// placeholder keeps the place of a field whose value is not the header's to give: old, or
// the one of its kind that a hook moved or spelled anew.
func placeholder(name string, kind fieldKind, old *field, raw []field) (f field, ok bool) {
	if old != nil {
		return *old, true
	}
	i := slices.IndexFunc(raw, func(f field) bool { return f.kind == kind })
	if i < 0 {
		return field{}, false
	}
	f, err := newField(name, string(raw[i].value))
	return f, err == nil
}

// appendRest appends the values that were not taken.
func appendRest(fields []field, header http.Header, taken []string) ([]field, error) {
	var few [8]string
	rest := few[:0]
	for key, values := range header {
		if count(taken, key) < len(values) && !isFraming(kindOf([]byte(key))) {
			rest = append(rest, key)
		}
	}
	slices.Sort(rest)
	for _, key := range rest {
		for _, value := range header[key][count(taken, key):] {
			f, err := newField(key, value)
			if err != nil {
				return nil, err
			}
			fields = append(fields, f)
		}
	}
	return fields, nil
}

// newField refuses what would change the meaning of the message (RFC 9110, section 5.5).
func newField(name, value string) (field, error) {
	if !isToken(name) || !validValue(value) {
		return field{}, fmt.Errorf("%w: %q", errHookField, name)
	}
	line := append(append(append(make([]byte, 0, len(name)+2+len(value)), name...), ": "...), value...)
	f := field{line: line, name: line[:len(name)], value: trimBlanks(line[len(name)+2:])}
	f.kind = kindOf(f.name)
	return f, nil
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

// announced returns the trailer fields that a Trailer field names, without values.
func announced(header http.Header) (trailer http.Header) {
	for _, list := range header["Trailer"] {
		tokens([]byte(list), func(name []byte) bool {
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

// mergeTrailers merges trailer back into the order of raw. It is too late to refuse what
// can't be sent, so that is left out.
func mergeTrailers(trailer http.Header, raw []field) []field {
	names := make([]string, len(raw))
	for i := range raw {
		names[i] = string(raw[i].name)
	}
	sound := http.Header{}
	for key, values := range trailer {
		if isToken(key) && !slices.ContainsFunc(values, func(v string) bool { return !validValue(v) }) {
			sound[key] = values
		}
	}
	fields, err := merge(sound, names, raw)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(fields, func(f field) bool { return !allowedInTrailer(&f) })
}
