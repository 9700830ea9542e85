package mitm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"sync/atomic"
)

// http2Exchange is one request on an HTTP/2 stream and its response.
type http2Exchange struct {
	routed
	w      http.ResponseWriter
	req    *http.Request // as net/http has it
	ctx    context.Context
	cancel context.CancelCauseFunc

	schemeTold bool // by net/http, see http2scheme.go

	body   *http2Body   // nil: there is none
	out    *lateFlusher // nil: no content was sent
	broken bool         // the response has no proper end
	up     atomic.Int64 // bytes of content that came

	motion // of the client's content and of the response's

	queue   chan http2Interim // nil: there were no interim responses
	written chan struct{}     // closed when all of the queue is
}

// Errors of requests that net/http lets pass.
var (
	errTargetPath  = errors.New(":path does not begin with a slash (RFC 9113, section 8.3.1)")
	errOuterSpace  = errors.New("field value begins or ends with white space (RFC 9113, section 8.2.1)")
	errHTTP2Length = errors.New("Content-Length does not fit the content (RFC 9113, section 8.1.1)")
)

// errStill ends an exchange whose content has not moved for too long.
var errStill = fmt.Errorf("content stands still: %w", context.DeadlineExceeded)

// serve answers the request.
func (x *http2Exchange) serve() {
	c := x.client
	x.flow = c.newFlow()
	defer func() { c.finish(x.flow, x.err) }()
	err := x.read()
	if err != nil {
		x.err = &OpError{Op: "read request", Err: err}
		x.answer(requestStatus(err), x.err.Error())
		return
	}
	x.describe()
	if err := x.findRoute(x.consumeCredentials()); err != nil {
		status, err := denial(err)
		x.err = err
		x.answer(status, err.Error())
		return
	}
	switch {
	case x.line.form == authorityForm && x.client.fixed != nil:
		if err := x.connectThrough(); err != nil {
			status, err := denial(err)
			x.err = err
			x.answer(status, err.Error())
			return
		}
		x.connect()
	case x.line.form == authorityForm:
		x.connect()
	case x.route == nil, x.control.maxForwards == 0 && countsForwards(x.req.Method):
		x.answerHere()
	default:
		x.forward()
	}
}

// consumeCredentials takes out what is for the proxy itself, and not for hooks, and returns it.
func (x *http2Exchange) consumeCredentials() (credentials []string) {
	const name = "Proxy-Authorization"
	var rest []string
	for _, value := range x.req.Header[name] {
		if x.client.consumes(value) {
			credentials = append(credentials, value)
		} else {
			rest = append(rest, value)
		}
	}
	if x.req.Header[name] = rest; rest == nil {
		delete(x.req.Header, name)
	}
	return credentials
}

// expire implements mover.
func (x *http2Exchange) expire() {
	x.cancel(errStill)
	rc := http.NewResponseController(x.w)
	rc.SetReadDeadline(past)
	rc.SetWriteDeadline(past)
}

// over implements mover.
func (x *http2Exchange) over() bool { return x.req.Context().Err() != nil }

// read understands the request. Its target is read by the parser of HTTP/1, so that it can
// be written there.
func (x *http2Exchange) read() (err error) {
	req := x.req
	authority := req.Host
	if authority == "" && x.client.fixed != nil {
		authority = x.client.fixed.authority()
	}
	line := req.Method + " " + x.scheme() + "://" + authority + req.RequestURI + " HTTP/1.1"
	switch {
	case req.Method == http.MethodConnect:
		line = req.Method + " " + authority + " HTTP/1.1"
	case req.RequestURI == "*":
		line = req.Method + " * HTTP/1.1"
	}
	if len(req.RequestURI) > x.client.p.limits.requestLine {
		return errLineTooLong
	}
	if x.line, err = parseRequestLine([]byte(line)); err != nil {
		return err
	}
	if path := req.RequestURI; x.line.form == absoluteForm && path[0] != '/' {
		return errTargetPath
	}
	if len(req.Header["Host"]) > 1 {
		return errHostCount
	}
	if !validAuthority([]byte(authority)) {
		return errHostValue
	}
	delete(req.Header, "Host") // it is :authority that counts
	return cmp.Or(x.checkScheme(), x.readFields(), x.readLength(), x.checkVia())
}

// readFields checks what net/http does not, and finds what is for the proxy.
func (x *http2Exchange) readFields() error {
	c, limit := &x.control, x.client.p.limits.head
	c.maxForwards = -1
	n, size := 0, len(x.req.RequestURI)
	for name, values := range x.req.Header {
		n += len(values)
		for _, v := range values {
			size += len(name) + len(v)
			if !isToken(name) || !validValue(v) {
				return errHookField
			}
			if len(trimBlanks([]byte(v))) != len(v) {
				return errOuterSpace
			}
		}
	}
	switch {
	case n > limit.fields:
		return errTooManyFields
	case size > limit.bytes:
		return errHeadTooLarge
	}
	c.trailers = len(x.req.Header["Te"]) > 0
	if values := x.req.Header["Max-Forwards"]; len(values) > 0 && countsForwards(x.req.Method) {
		n, err := strconv.ParseUint(values[0], 10, 31)
		if err != nil || len(values) > 1 {
			return errMaxForwards
		}
		c.maxForwards = int(n)
	}
	x.readTrailerNames()
	return nil
}

// readTrailerNames puts back the Trailer field, which net/http has moved. What may be no trailer is
// dropped when it comes.
func (x *http2Exchange) readTrailerNames() {
	for name := range x.req.Trailer {
		if !mayTrail(name) {
			delete(x.req.Trailer, name)
			continue
		}
		x.req.Header.Add("Trailer", name)
	}
}

// readLength finds out how long the content is. That it is what Content-Length says is seen
// to by net/http, unless there is none.
func (x *http2Exchange) readLength() error {
	f := &x.control.framing
	switch req := x.req; {
	case req.ContentLength > 0:
		f.kind, f.length = knownLength, req.ContentLength
	case req.ContentLength < 0:
		f.kind = chunked
	case len(req.Header["Content-Length"]) > 0:
		f.kind = knownLength
	}
	values := x.req.Header["Content-Length"]
	if len(values) > 1 || len(values) == 1 && values[0] != strconv.FormatInt(f.length, 10) {
		return errHTTP2Length
	}
	return nil
}

// checkVia refuses a request that came by already (RFC 9110, section 7.6.3).
func (x *http2Exchange) checkVia() error {
	for _, value := range x.req.Header["Via"] {
		if viaNames([]byte(value), x.client.p.Via) {
			return ErrLoop
		}
	}
	return nil
}

// describe tells the flow what the request is.
func (x *http2Exchange) describe() {
	if x.flow == nil {
		return
	}
	x.flow.Method, x.flow.URL = x.req.Method, x.req.Host
	switch fixed := x.client.fixed; {
	case x.req.Method == http.MethodConnect:
	case fixed != nil:
		x.flow.URL = fixed.site + string(pathOf([]byte(x.req.RequestURI)))
	default:
		x.flow.URL = x.scheme() + "://" + x.req.Host + x.req.RequestURI
	}
}

// answer writes a short response of the proxy's own.
func (x *http2Exchange) answer(status int, text string) {
	text = x.tellable(status, text)
	h := x.w.Header()
	if status == http.StatusProxyAuthRequired {
		h.Set("Proxy-Authenticate", challenge)
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	x.answered(status)
	x.w.WriteHeader(status)
	if x.req.Method != http.MethodHead {
		io.WriteString(x.w, text)
	}
}

// fail answers a request that got no response.
func (x *http2Exchange) fail(err error) {
	if b := x.body; b != nil && b.err.Load() != nil {
		err = &OpError{Op: "read request", Err: clientGone(*b.err.Load())}
	} else if b != nil && !b.ended.Load() && x.ctx.Err() != nil && x.cause() == ErrClientGone {
		err = &OpError{Op: "read request", Err: ErrClientGone} // which b was closed for before it could tell
	}
	err = x.blame(err)
	x.err = err
	if errors.Is(err, http.ErrAbortHandler) || x.req.Context().Err() != nil {
		x.broken = true
		return
	}
	x.answer(failureStatus(err), err.Error())
}

// blame is client.blame for a stream.
func (x *http2Exchange) blame(err error) error {
	if err == nil || x.ctx.Err() == nil && x.client.ctx.Err() == nil { // the latter ends first
		return err
	}
	return because(err, x.cause())
}

// cause says why the exchange was ended: net/http tells of a client that has left, or has
// reset the stream, only that.
func (x *http2Exchange) cause() error {
	if x.client.ctx.Err() != nil {
		return context.Cause(x.client.ctx)
	}
	if err := context.Cause(x.ctx); err != context.Canceled {
		return err
	}
	return ErrClientGone
}

// http2Body is the content of a request as hooks and origins read it.
type http2Body struct {
	x *http2Exchange
	io.ReadCloser
	closed atomic.Bool
	ended  atomic.Bool           // the content was read to its end
	err    atomic.Pointer[error] // why it can't be
}

// Read implements io.Reader.
func (b *http2Body) Read(p []byte) (int, error) {
	b.x.wait()
	n, err := b.ReadCloser.Read(p)
	b.x.moved()
	b.x.up.Add(int64(n))
	if err == io.EOF {
		b.ended.Store(true)
	}
	if err != nil && err != io.EOF && !b.closed.Load() {
		b.err.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *http2Body) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

// http2Interim is a 1xx response on its way to the client.
type http2Interim struct {
	code   int
	header map[string][]string
}

// interimHTTP2 implements asker. It hands a 1xx response to a goroutine that writes it: who read
// it may have other streams to read for.
func (x *http2Exchange) interimHTTP2(i http2Interim) error {
	if i.code == http.StatusContinue {
		return nil // net/http says it when the content is read
	}
	if x.queue == nil {
		x.queue, x.written = make(chan http2Interim, maxInterim), make(chan struct{})
		go func() {
			defer close(x.written)
			for i := range x.queue {
				x.write(i)
			}
		}()
	}
	select {
	case x.queue <- i:
		return nil
	default:
		return errInterim
	}
}

func (x *http2Exchange) write(i http2Interim) {
	h := x.w.Header()
	maps.Copy(h, i.header)
	h["Content-Length"] = nil // makes net/http work on a copy, while this one changes
	x.w.WriteHeader(i.code)
	clear(h)
}

// endInterim waits until the final response may be written.
func (x *http2Exchange) endInterim() {
	if x.queue != nil {
		close(x.queue)
		<-x.written
	}
}

// interim implements asker for responses of HTTP/1.
func (x *http2Exchange) interim(t *trip) error {
	i := http2Interim{t.status.code, map[string][]string{}}
	for n := range t.head.fields {
		if f := &t.head.fields[n]; f.inHTTP2() && !named(t.control.names, f) {
			name := http.CanonicalHeaderKey(string(f.name))
			i.header[name] = append(i.header[name], string(f.value))
		}
	}
	return x.interimHTTP2(i)
}
