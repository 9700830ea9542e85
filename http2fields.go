package mitm

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// carry puts those fields of src into dst that HTTP/2 can carry (RFC 9113, section 8.2.2), and
// reads into c what they say about their hop. Their values are shared, not copied. With an error,
// dst is as it was.
func (c *control) carry(dst, src http.Header) error {
	if err := c.readHop(src); err != nil {
		return err
	}
	for name, values := range src {
		f := field{name: []byte(name), kind: kindOf([]byte(name))}
		if len(values) == 0 || f.kind == contentLengthField || !f.inHTTP2() || named(c.names, &f) {
			continue
		}
		if f.kind == trailerField {
			if values = announceable(values); len(values) == 0 {
				continue
			}
		}
		key := http.CanonicalHeaderKey(name)
		if values = trimmed(values); dst[key] == nil {
			dst[key] = values
			continue
		}
		dst[key] = append(dst[key], values...)
	}
	return nil
}

// readHop reads what the fields say about their hop, and refuses what can't be sent.
func (c *control) readHop(header http.Header) error {
	var ofHop []field
	for name, values := range header {
		kind := kindOf([]byte(name))
		for _, value := range values {
			if !isToken(name) || !validValue(value) {
				return fmt.Errorf("%w: %q", errHookField, name)
			}
			switch kind {
			case connectionField, teField, maxForwardsField:
				ofHop = append(ofHop, field{name: []byte(name), value: trimBlanks([]byte(value)), kind: kind})
			}
		}
	}
	return c.read(ofHop)
}

// announceable returns values of Trailer fields without names that may be no trailers.
func announceable(values []string) (sound []string) {
	for _, value := range values {
		list, all := appendElements(nil, []byte(value), mayTrail[[]byte])
		switch {
		case all:
			sound = append(sound, value)
		case len(list) > 0:
			sound = append(sound, string(list))
		}
	}
	return sound
}

// trimmed returns values without the white space around them, which HTTP/2 forbids (RFC 9113,
// section 8.2.1). To append to it leaves values alone.
func trimmed(values []string) []string {
	isLoose := func(v string) bool { return strings.Trim(v, " \t") != v }
	if !slices.ContainsFunc(values, isLoose) {
		return values[:len(values):len(values)]
	}
	tight := make([]string, len(values))
	for i, v := range values {
		tight[i] = strings.Trim(v, " \t")
	}
	return tight
}

// inHTTP2 reports whether HTTP/2 can carry f (RFC 9113, section 8.2.2). That of TE is made anew.
func (f *field) inHTTP2() bool {
	switch f.kind {
	case transferEncodingField, connectionField, keepAliveField, proxyConnectionField,
		upgradeField, http2SettingsField, hostField, teField:
		return false
	}
	return true
}
