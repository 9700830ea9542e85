package mitm

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// This file lets an http.Handler answer requests in place of an origin, see Destination.Handler.

// errHandlerOnly ends a connection to a Handler if the client does not speak HTTP.
var errHandlerOnly = errors.New("an http.Handler answers there, and the client does not speak HTTP")

// heldBack is how much of a response waits for its end, which may come at once: then its length
// is known. It is about what net/http's server holds back.
const heldBack = 2 << 10

// answersHere reports whether the Handler of h's destination answers req.
func (h *hookedExchange) answersHere(req *http.Request) bool {
	return h.route.handler != nil && h.routeOf(req.URL) == h.route
}

// answer has the Handler of h's destination answer req. The response begins as soon as the handler
// has something to send.
func (h *hookedExchange) answer(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	w := &handlerWriter{h: h, method: req.Method, header: http.Header{}, trailer: http.Header{}, begun: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	w.r, w.w = io.Pipe()
	if !h.addHandler(w) {
		cancel()
		return nil, errOver
	}
	h.sends(req)
	req = req.WithContext(ctx)
	req.RequestURI = req.URL.RequestURI()
	go w.serve(req)
	<-w.begun
	if err := cmp.Or(w.err, context.Cause(req.Context())); err != nil { // of who left there is no response to speak of
		w.Close()
		return nil, err
	}
	w.res.Request = req
	return w.res, nil
}

// addHandler notes a handler that is to be waited for; false if the exchange is over.
func (h *hookedExchange) addHandler(w *handlerWriter) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asker == nil {
		return false
	}
	h.body.lent = true // content that a handler may yet read is not drained
	w.previous, h.handlers = h.handlers, w
	return true
}

// stopHandlers interrupts whatever the handlers wait for.
func (h *hookedExchange) stopHandlers() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := h.handlers; w != nil; w = w.previous {
		w.Close()
	}
}

// awaitHandlers returns when all handlers, which were stopped, have returned.
func (h *hookedExchange) awaitHandlers() {
	h.mu.Lock()
	w := h.handlers
	h.mu.Unlock()
	for ; w != nil; w = w.previous {
		<-w.done
	}
}

// handlerWriter is the http.ResponseWriter of one request, and the Body of its response.
type handlerWriter struct {
	h        *hookedExchange
	previous *handlerWriter // of the same exchange
	method   string
	cancel   context.CancelFunc
	header   http.Header
	once     sync.Once
	begun    chan struct{}  // closed when res or err is there for others
	res      *http.Response // nil: no status is known. Once it was sent it is not the handler's to look at
	status   int
	trailers []string // names that were announced
	err      error
	trailer  http.Header // written before the pipe is closed, read after
	held     []byte      // content that is yet to be sent
	sent     bool        // res was handed out
	r        *io.PipeReader
	w        *io.PipeWriter
	done     chan struct{} // closed when the handler has returned
}

// serve calls the handler.
func (w *handlerWriter) serve(req *http.Request) {
	defer close(w.done)
	returned := false
	defer func() {
		if v := recover(); !returned { // it may also have ended its goroutine
			err := error(http.ErrAbortHandler)
			if v != nil && v != err {
				err = w.h.client.panicked("handler", v)
			}
			w.fail(asOpError("handler", addrOf(req), err))
		}
	}()
	defer w.closeContent(req)
	w.h.route.handler.ServeHTTP(w, req)
	w.closeContent(req)
	w.end()
	returned = true
}

// closeContent ends the handler's use of the request's content.
func (w *handlerWriter) closeContent(req *http.Request) {
	if req.Body != nil {
		w.h.closeBody(req.Body)
	}
}

// end completes the response, whose length is known if it has not begun.
func (w *handlerWriter) end() {
	w.WriteHeader(http.StatusOK)
	w.endTrailer()
	if n := len(w.held); !w.sent && len(w.trailer) == 0 && w.header["Content-Length"] == nil && w.hasContent() && (n > 0 || w.method != http.MethodHead) {
		w.res.ContentLength = int64(n)
		w.res.Header.Set("Content-Length", strconv.Itoa(n))
	}
	w.flush()
	w.w.Close()
}

// endTrailer finds out, at the end, which trailer fields there are.
func (w *handlerWriter) endTrailer() {
	for _, name := range w.trailers {
		w.trailer[name] = w.header[name]
	}
	for key, values := range w.header {
		if name, ok := strings.CutPrefix(key, http.TrailerPrefix); ok {
			w.trailer[http.CanonicalHeaderKey(name)] = values
		}
	}
	if !w.sent {
		w.tellTrailer()
	}
}

// tellTrailer puts the trailer fields where hooks look for them.
func (w *handlerWriter) tellTrailer() {
	if w.res.Trailer == nil && len(w.trailer) > 0 {
		w.res.Trailer = http.Header{}
	}
	maps.Copy(w.res.Trailer, w.trailer)
}

// fail ends the response, which looks cut if it has begun.
func (w *handlerWriter) fail(err error) {
	if w.res != nil {
		w.flush()
	} else {
		w.err = err
		w.once.Do(func() { close(w.begun) })
	}
	w.w.CloseWithError(err)
}

// flush sends what was held back.
func (w *handlerWriter) flush() error {
	w.sent = true
	w.once.Do(func() { close(w.begun) })
	if len(w.held) == 0 {
		return nil
	}
	_, err := w.w.Write(w.held)
	w.held = nil
	return err
}

// Read implements io.Reader for the response. At its end the trailer fields are known.
func (w *handlerWriter) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err == io.EOF {
		w.tellTrailer()
	}
	return n, err
}

// Close implements io.Closer for the response. The exchange waits for the handler's end.
func (w *handlerWriter) Close() error {
	w.cancel()
	return w.r.Close()
}

// Header implements http.ResponseWriter.
func (w *handlerWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *handlerWriter) WriteHeader(status int) {
	switch {
	case w.res != nil:
		return
	case status/100 == 1 && status != http.StatusSwitchingProtocols:
		w.h.interimHTTP2(http2Interim{status, w.header.Clone()})
		return
	}
	header := w.header.Clone()
	for key := range header {
		if strings.HasPrefix(key, http.TrailerPrefix) {
			delete(header, key)
		}
	}
	trailer := announced(header)
	w.status, w.trailers = status, slices.Collect(maps.Keys(trailer))
	w.res = &http.Response{
		Status: strconv.Itoa(status) + " " + http.StatusText(status), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: w, ContentLength: -1, Trailer: trailer,
	}
	if n, err := strconv.ParseInt(header.Get("Content-Length"), 10, 63); err == nil && n >= 0 {
		w.res.ContentLength = n
	}
}

// Write implements http.ResponseWriter.
func (w *handlerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if !w.hasContent() {
		return 0, http.ErrBodyNotAllowed
	}
	if !w.sent && len(w.held) == 0 {
		w.describe(p)
	}
	if !w.sent && len(w.held)+len(p) <= heldBack {
		w.held = append(w.held, p...)
		return len(p), nil
	}
	if err := w.flush(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// hasContent reports whether a response with the status may have content.
func (w *handlerWriter) hasContent() bool {
	return mayDescribe(w.status) && w.status != http.StatusNotModified
}

// describe adds a Content-Type for content that begins with p, as a ResponseWriter has to.
func (w *handlerWriter) describe(p []byte) {
	if _, known := w.res.Header["Content-Type"]; !known && w.res.Header.Get("Content-Encoding") == "" {
		w.res.Header.Set("Content-Type", http.DetectContentType(p))
	}
}

// Flush implements http.Flusher.
func (w *handlerWriter) Flush() {
	w.WriteHeader(http.StatusOK)
	w.flush()
}
