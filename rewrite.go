package mitm

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// rewrite writes the fields of a message for the next hop: every line as it came, in
// its place, but for those that concern one hop only (RFC 9110, section 7.6.1) and
// those that frame the message, which are written from what was understood.
type rewrite struct {
	fields  []field
	control *control
	framing framing // of the message as it is sent

	response bool
	status   int    // of a response
	protocol string // of a 101 that names none
	minor    int    // HTTP/1.minor of the sender
	http2    bool   // which spoke HTTP/2
	host     []byte // request: what the Host field becomes
	keepHost bool   // request: unless it has one already
	forwards bool   // request: decrement Max-Forwards
	close    bool   // say Connection: close
	via      string // own name in Via; empty: none
	framed   bool   // the framing field was written
	done     uint8  // bits of what may be written only once
}

// Fields that are written at most once.
const (
	wroteHost = 1 << iota
	wroteConnection
	wroteTE
	wroteUpgrade
)

// once reports whether what has not happened before.
func (w *rewrite) once(what uint8) bool {
	first := w.done&what == 0
	w.done |= what
	return first
}

// appendTo appends all field lines and the empty line behind them.
func (w *rewrite) appendTo(dst []byte) []byte {
	w.framed, w.done = false, 0
	if !w.response && w.control.hosts == 0 {
		dst = w.appendHost(dst, []byte("Host"))
	}
	for i := range w.fields {
		f := &w.fields[i]
		if named(w.control.names, f) {
			continue
		}
		dst = w.appendField(dst, f)
	}
	return append(w.appendMissing(dst), "\r\n"...)
}

func (w *rewrite) appendField(dst []byte, f *field) []byte {
	switch f.kind {
	case contentLengthField, transferEncodingField:
		return w.appendFraming(dst, f)
	case connectionField:
		return w.appendConnection(dst, f)
	case keepAliveField, proxyConnectionField, http2SettingsField, ownCredentialsField:
		return dst
	case upgradeField:
		return w.appendUpgrade(dst, f)
	case teField:
		if w.response || !w.control.trailers || !w.once(wroteTE) {
			return dst
		}
		return appendLine(dst, f, []byte("trailers"))
	case trailerField: // some servers refuse a message that announces others, which do not come anyway
		return appendList(dst, f, mayTrail[[]byte])
	}
	if w.response {
		return append(append(dst, f.line...), "\r\n"...)
	}
	return w.appendRequestField(dst, f)
}

// appendRequestField appends what only a request gives a meaning to.
func (w *rewrite) appendRequestField(dst []byte, f *field) []byte {
	switch f.kind {
	case hostField:
		if w.keepHost {
			break
		}
		if string(f.value) == string(w.host) && w.once(wroteHost) {
			break
		}
		return w.appendHost(dst, f.name)
	case expectField:
		if w.minor == 0 { // RFC 9110, section 10.1.1
			return dst
		}
	case maxForwardsField:
		if w.forwards {
			return appendNumber(dst, f, int64(w.control.maxForwards-1))
		}
	}
	return append(append(dst, f.line...), "\r\n"...)
}

func (w *rewrite) appendHost(dst, name []byte) []byte {
	if !w.once(wroteHost) {
		return dst
	}
	dst = append(append(dst, name...), ": "...)
	return append(append(dst, w.host...), "\r\n"...)
}

// appendFraming writes the field that frames the message in the place of the one that
// came. Only the name is kept of that: odd spaces and lists are read in different ways.
func (w *rewrite) appendFraming(dst []byte, f *field) []byte {
	if w.framed {
		return dst
	}
	f = &field{name: f.name, kind: f.kind}
	switch {
	case w.framing.kind == knownLength && f.kind == contentLengthField:
		w.framed = true
		return appendNumber(dst, f, w.framing.length)
	case w.framing.kind == chunked && f.kind == transferEncodingField:
		w.framed = true
		return appendLine(dst, f, []byte("chunked"))
	case w.framing.kind == noContent && w.describes() && f.kind == contentLengthField:
		w.framed = true
		return appendNumber(dst, f, w.control.length)
	}
	return dst
}

// mayDescribe reports whether framing fields may tell what the content would have been: in
// answers to HEAD and in a 304, but not in a 204 or 1xx (RFC 9110, section 8.6).
func mayDescribe(status int) bool { return status != http.StatusNoContent && status/100 != 1 }

// describes reports whether this message's framing fields may do so.
func (w *rewrite) describes() bool {
	return w.response && mayDescribe(w.status) && !w.control.hasTE
}

// appendConnection writes what concerns the hop in front of us.
func (w *rewrite) appendConnection(dst []byte, f *field) []byte {
	var list [len("Upgrade, TE, close")]byte
	options := list[:0]
	add := func(on bool, option string) {
		if on && len(options) > 0 {
			options = append(options, ", "...)
		}
		if on {
			options = append(options, option...)
		}
	}
	add(w.upgrades(), "Upgrade")
	add(!w.response && w.control.trailers, "TE")
	add(w.close && !w.upgrades(), "close")
	if len(options) == 0 || !w.once(wroteConnection) {
		return dst
	}
	if bytes.EqualFold(f.value, options) {
		return append(append(dst, f.line...), "\r\n"...)
	}
	return appendLine(dst, f, options)
}

// upgrades reports whether an Upgrade field goes on. HTTP/1.0 has none, but some servers say 1.0 in a 101.
func (w *rewrite) upgrades() bool { return w.control.upgrade && (w.minor > 0 || w.switches()) }

func (w *rewrite) switches() bool { return w.response && w.status == http.StatusSwitchingProtocols }

// appendUpgrade drops protocols that we would be blind to.
func (w *rewrite) appendUpgrade(dst []byte, f *field) []byte {
	if !w.upgrades() {
		return dst
	}
	w.once(wroteUpgrade)
	return appendList(dst, f, upgradable)
}

// appendList appends f with those elements that keep allows: as it came if these are all, and not at
// all if there are none.
func appendList(dst []byte, f *field, keep func(element []byte) bool) []byte {
	start := len(dst)
	dst = append(append(dst, f.name...), ": "...)
	before := len(dst)
	dst, all := appendElements(dst, f.value, keep)
	switch {
	case all:
		dst = append(dst[:start], f.line...)
	case len(dst) == before:
		return dst[:start]
	}
	return append(dst, "\r\n"...)
}

// appendElements appends those elements of a list that keep allows and reports whether these are all.
func appendElements(dst, list []byte, keep func(element []byte) bool) (b []byte, all bool) {
	start := len(dst)
	all = true
	tokens(list, func(element []byte) bool {
		switch {
		case !keep(element):
			all = false
			return true
		case len(dst) > start:
			dst = append(dst, ", "...)
		}
		dst = append(dst, element...)
		return true
	})
	return dst, all
}

// appendMissing adds what the message needs and did not have.
func (w *rewrite) appendMissing(dst []byte) []byte {
	if !w.framed && w.framing.kind == knownLength {
		dst = append(strconv.AppendInt(append(dst, "Content-Length: "...), w.framing.length, 10), "\r\n"...)
	}
	if !w.framed && w.framing.kind == chunked {
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	}
	if w.via != "" {
		dst = append(append(dst, "Via: "...), viaVersion(w.http2, w.minor)...)
		dst = append(append(append(dst, ' '), w.via...), "\r\n"...)
	}
	if w.response && !w.control.hasDate && w.status/100 != 1 { // RFC 9110, section 6.6.1
		dst = appendDate(dst)
	}
	if w.switches() && w.once(wroteUpgrade) {
		dst = append(append(append(dst, "Upgrade: "...), w.protocol...), "\r\n"...)
	}
	return w.appendConnection(dst, &field{name: []byte("Connection")})
}

// viaVersion is how Via names the version of a message that came by HTTP/1.minor, or else by
// HTTP/2 (RFC 9110, section 7.6.3).
func viaVersion(http2 bool, minor int) string {
	if http2 {
		return "2.0"
	}
	return [...]string{"1.0", "1.1"}[minor]
}

// appendDate appends a Date field with the current time (RFC 9110, section 6.6.1).
func appendDate(dst []byte) []byte {
	dst = time.Now().UTC().AppendFormat(append(dst, "Date: "...), http.TimeFormat)
	return append(dst, "\r\n"...)
}

// appendLine appends f with the given value, byte for byte as it came if it has it.
func appendLine(dst []byte, f *field, value []byte) []byte {
	if f.line != nil && bytes.Equal(f.value, value) {
		return append(append(dst, f.line...), "\r\n"...)
	}
	dst = append(append(dst, f.name...), ": "...)
	return append(append(dst, value...), "\r\n"...)
}

func appendNumber(dst []byte, f *field, n int64) []byte {
	var digits [20]byte
	return appendLine(dst, f, strconv.AppendInt(digits[:0], n, 10))
}

// appendStatusLine writes the version that we speak (RFC 9110, section 6.2), and the
// SP even if no reason follows (RFC 9112, section 4).
func appendStatusLine[T []byte | string](dst []byte, code int, reason T) []byte {
	dst = strconv.AppendInt(append(dst, "HTTP/1.1 "...), int64(code), 10)
	dst = append(append(dst, ' '), reason...)
	return append(dst, "\r\n"...)
}

// appendRequestLine writes a request line in the version that we speak.
func appendRequestLine[T []byte | string](dst []byte, method, target T) []byte {
	dst = append(append(append(dst, method...), ' '), target...)
	return append(dst, " HTTP/1.1\r\n"...)
}
