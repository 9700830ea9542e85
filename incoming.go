package mitm

import (
	"net/http"
	"net/url"
	"strings"
)

// This file turns messages as they came into the types of net/http that hooks see.

// newRequest builds the request that hooks see.
func (h *hookedExchange) newRequest(x *exchange) {
	h.near.raw.keep(&x.head)
	header, names := h.near.raw.show(&h.control, &h.room)
	h.context = flowContext{x.client.ctx, h.flow}
	h.request = *(&http.Request{
		Method:     x.method,
		URL:        &h.url,
		Proto:      [...]string{"HTTP/1.0", "HTTP/1.1"}[h.minor],
		ProtoMajor: 1, ProtoMinor: int(h.minor),
		Header:     header,
		Host:       h.host(x),
		Body:       http.NoBody,
		TLS:        x.client.tls,
		RemoteAddr: x.client.remoteAddr(),
	}).WithContext(&h.context)
	r := &h.request
	h.req, h.flow.Request, h.flow.RequestFields = r, r, names
	h.setURL(h.path(x), x.route)
	h.absolute = newAbsolute(x, r.Host)
	switch h.control.kind {
	case knownLength:
		r.ContentLength = h.control.length
	case chunked:
		r.ContentLength, r.TransferEncoding = -1, []string{"chunked"}
	}
	if !h.control.framing.empty() {
		r.Body = &h.body
		if h.control.kind == chunked {
			r.Trailer = announced(r.Header)
		}
	}
}

// path is the target in origin-form, which is the end of the target as it came if that has one.
func (h *hookedExchange) path(x *exchange) string {
	path, end := x.target(), len(x.line.method)+len(" ")+len(x.line.target)
	if came := h.near.raw.text[:end]; strings.HasSuffix(came, string(path)) {
		return came[end-len(path):]
	}
	return string(path)
}

// host is the Host field as it will be sent if no hook changes it.
func (h *hookedExchange) host(x *exchange) string {
	switch {
	case x.route.host != "":
		return x.route.host
	case x.line.form == absoluteForm:
		x.client.host = x.line.appendAuthority(x.client.host[:0])
		if named := x.route.conn.Destination.Host; string(x.client.host) == named {
			return named
		}
		return string(x.client.host)
	}
	if f := h.near.raw.first(hostField); f != nil {
		return h.near.raw.str(f.value)
	}
	return "" // HTTP/1.0
}

// setURL makes the URL of where the request goes. A target that no URL can hold as it
// is, such as one with a broken escape, is shown as its plain bytes.
func (h *hookedExchange) setURL(path string, r *route) {
	before, query, ok := strings.Cut(path, "?")
	h.url.Path, h.url.RawQuery, h.url.ForceQuery = before, query, ok && query == ""
	if !isPlainPath(before) && !strings.HasPrefix(path, "//") { // which would be a host
		if u, err := url.ParseRequestURI(path); err == nil {
			h.url = *u
		}
	}
	h.url.Scheme, h.url.Host = "http", r.authority()
	if r.key.tls {
		h.url.Scheme = "https"
	}
	h.sent, h.target = h.url, path
}

// isPlainPath reports whether a path means what it says: nothing in it is escaped or would be.
func isPlainPath(path string) bool {
	for i := range len(path) {
		c := path[i] | 0x20
		if letter := c >= 'a' && c <= 'z'; !letter && (path[i] < '-' || path[i] > '9') && path[i] != '_' {
			return path == "*"
		}
	}
	return true
}

// response builds the response that hooks see.
func (t *hookedTrip) response(req *http.Request) *http.Response {
	raw := &t.far.raw
	raw.keep(&t.head)
	header, names := raw.show(&t.control, &t.room)
	t.res = http.Response{
		Status:     strings.TrimSpace(raw.text[len("HTTP/1.x "):len(t.head.start)]),
		StatusCode: t.status.code,
		Proto:      [...]string{"HTTP/1.0", "HTTP/1.1"}[t.status.minor],
		ProtoMajor: 1, ProtoMinor: t.status.minor,
		Header:        header,
		ContentLength: t.control.framing.contentLength(),
		Request:       req,
		Body:          t,
		TLS:           t.o.state,
	}
	res := &t.res
	t.conn = t.o.s
	if t.control.kind == chunked {
		res.TransferEncoding = []string{"chunked"}
		res.Trailer = announced(res.Header)
	}
	if t.control.kind == noContent && t.control.hasLength {
		res.ContentLength = t.control.length
	}
	t.h.mu.Lock()
	if !t.h.answered { // or nobody looks for it any more
		t.h.response, t.h.flow.ResponseFields = raw, names
	}
	if x, ok := t.h.asker.(*exchange); ok && t == &t.h.first {
		x.trip.head.fields = t.head.fields[:0]
	}
	t.h.mu.Unlock()
	switch {
	case t.status.code == http.StatusSwitchingProtocols:
		if res.Body = (upgraded{t, t.o.s}); header["Upgrade"] == nil {
			header["Upgrade"] = []string{t.protocol}
		}
	case isTunnel(t.status.code, t.method):
		res.Body = upgraded{t, t.o.s}
	case t.control.framing.empty():
		t.Close()
		res.Body = http.NoBody
	}
	return res
}
