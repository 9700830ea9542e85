package mitm

import (
	"errors"
	"net/http"
)

// This file finds out what content a message has after the hooks.

// errContentGone: what a hook has read it must put back, as a new Body.
var errContentGone = errors.New("the content was read already and not put back")

// requestContent finds out what content req has now and how it is framed.
func (h *hookedExchange) requestContent(req *http.Request) (framing, *readerSource, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return noRequestContent(req.Method, h.control.framing), nil, nil
	}
	s := &readerSource{r: req.Body}
	if req.Trailer != nil {
		s.trailer = func() []field { return h.requestTrailers(req) }
	}
	if h.protocol == HTTP2 && req.Body == h.own {
		return h.control.framing.with(req.Trailer), s, nil
	}
	if req.Body == h.own {
		if !h.body.lend() {
			return framing{}, nil, errContentGone
		}
		s.direct, s.lent = &h.body.body, &h.body.mu
		if s.trailer != nil {
			s.trailer = func() []field { h.body.tellTrailers(); return h.requestTrailers(req) }
		}
		return h.control.framing.with(req.Trailer), s, nil
	}
	defer h.untilGone(req.Context(), req.Body)()
	f, err := s.measure(req.ContentLength, h.control.framing.contentLength())
	return f.with(req.Trailer), s, err
}

// requestTrailers returns what comes after the content of req. Where a hook has copied the request,
// the trailers that came are those of the original.
func (h *hookedExchange) requestTrailers(req *http.Request) []field {
	fillTrailer(req.Trailer, h.req.Trailer)
	return mergeTrailers(req.Trailer, h.body.trailers)
}

// with returns the framing of content that trailer comes after: only chunks can have one.
func (f framing) with(trailer http.Header) framing {
	if len(trailer) > 0 {
		return framing{kind: chunked}
	}
	return f
}

// noRequestContent: a method that usually has content says that there is none (RFC
// 9110, section 8.6), unless the client left that out already.
func noRequestContent(method string, old framing) framing {
	usual := method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
	if usual && old.kind != noContent || old.kind == knownLength && old.length == 0 {
		return framing{kind: knownLength}
	}
	return framing{}
}

// responseContent finds out what content res has now and how it is framed for a client
// that asked by method.
func (h *hookedExchange) responseContent(res *http.Response, method string) (framing, *readerSource, error) {
	s := &h.reply
	if hasNoContent(res.StatusCode, method) {
		return framing{}, s, nil
	}
	if res.Body == http.NoBody {
		return framing{kind: knownLength}, s, nil
	}
	if own, ok := res.Body.(*hookedTrip); ok {
		return h.ownContent(res, own)
	}
	s.r, s.trailer = res.Body, h.responseTrailers(res)
	if own, ok := res.Body.(*http2Content); ok {
		s.trailer = func() []field { return mergeTrailers(own.res.Trailer, nil) }
		if h.empty = res.ContentLength == 0; h.empty && res.Header.Get("Content-Length") == "" {
			return framing{}, s, nil // not even a length, as in an answer that is all header
		}
		if res.ContentLength >= 0 && len(res.Trailer) == 0 {
			return framing{kind: knownLength, length: res.ContentLength}, s, nil
		}
		return framing{kind: chunked}, s, nil
	}
	old := int64(-1)
	if t := h.lastReturned(); t != nil {
		old = t.control.framing.contentLength()
	}
	f, err := s.measure(res.ContentLength, old)
	return f.with(res.Trailer), s, err
}

// ownContent is the content of own as it came. The trailers are read by Read if hooks were told that
// there will be some.
func (h *hookedExchange) ownContent(res *http.Response, own *hookedTrip) (framing, *readerSource, error) {
	s := &h.reply
	if !own.lend() {
		return framing{}, s, errContentGone
	}
	if s.lent = &own.mu; res.Trailer != nil {
		s.giveBack()
		s.r, s.trailer = own, h.responseTrailers(res)
	} else {
		s.direct = &own.body
	}
	return own.control.framing.with(res.Trailer), s, nil
}

// responseTrailers returns what tells, at the end of the content, what comes after it: the trailers
// of res are known only then.
func (h *hookedExchange) responseTrailers(res *http.Response) func() []field {
	return func() []field { return mergeTrailers(res.Trailer, h.rawTrailers()) }
}

func (h *hookedExchange) rawTrailers() []field {
	if t := h.lastReturned(); t != nil {
		return t.body.trailers
	}
	return nil
}
