package mitm

import (
	"context"
	"errors"
	"html/template"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// This file serves the proxy's own pages, and any http.Handler in place of an origin.

// errPagesOnly ends a connection to the proxy's own pages that is not for HTTP.
var errPagesOnly = errors.New("the proxy's own pages are for HTTP")

// certificatePages lets clients download the certificate of ca.
func certificatePages(ca *CA) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		certificatePage.Execute(w, ca != nil)
	})
	if ca == nil {
		return mux
	}
	serve := func(name, kind string, content []byte) {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Disposition", `attachment; filename="mitm-ca.`+name[len("cert."):]+`"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			w.Write(content)
		})
	}
	serve("cert.pem", "application/x-pem-file", ca.PEM())
	serve("cert.der", "application/x-x509-ca-cert", ca.Certificate().Raw)
	return mux
}

var certificatePage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>mitm</title>
<h1>This proxy opens TLS</h1>
{{if .}}<p>Its certificate: <a href="/cert.pem">PEM</a>, <a href="/cert.der">DER</a>. Whoever has its key can read and
change what a program that trusts it sends and gets, so trust it for tests only, and for as long as they take:
<ul>
<li>curl: <code>--cacert cert.pem</code>
<li>Go: <code>tls.Config.RootCAs</code>; on Linux <code>SSL_CERT_FILE=cert.pem</code>
<li>Node: <code>NODE_EXTRA_CA_CERTS=cert.pem</code>
<li>Python: <code>SSL_CERT_FILE=cert.pem</code>, requests: <code>REQUESTS_CA_BUNDLE=cert.pem</code>
<li>Java: <code>keytool -importcert -file cert.pem -keystore test.p12</code>, <code>-Djavax.net.ssl.trustStore=test.p12</code>
<li>Firefox: Settings, Privacy and Security, View Certificates, Authorities, Import, in a profile of its own
<li>Chromium: Settings, Privacy and security, Security, Manage certificates, in a profile of its own
<li>Debian: <code>cp cert.pem /usr/local/share/ca-certificates/mitm-ca.crt &amp;&amp; update-ca-certificates</code>
<li>macOS: open the file, add it to the login keychain, set it to Always Trust for SSL
<li>Windows: <code>certutil -user -addstore Root cert.der</code>
</ul>{{else}}<p>It has no certificate: TLS passes through it unopened.{{end}}
`))

// handlerTransport answers requests by an http.Handler.
type handlerTransport struct {
	handler  http.Handler
	panicked func(op string, v any) error
}

// RoundTrip implements http.RoundTripper. The response begins as soon as the handler writes,
// and its Close waits for the handler's end.
func (t handlerTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	w := &handlerWriter{header: http.Header{}, begun: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	w.r, w.w = io.Pipe()
	go func() {
		defer close(w.done)
		w.serve(t, req.WithContext(ctx))
	}()
	<-w.begun
	if w.err != nil {
		w.Close()
		return nil, w.err
	}
	return w.res, nil
}

// handlerWriter is the http.ResponseWriter of one request, and the Body of its response.
type handlerWriter struct {
	cancel context.CancelFunc
	header http.Header
	once   sync.Once
	begun  chan struct{} // closed when res or err is there
	res    *http.Response
	err    error
	r      *io.PipeReader
	w      *io.PipeWriter
	done   chan struct{} // closed when the handler has returned
}

func (w *handlerWriter) serve(t handlerTransport, req *http.Request) {
	returned := false
	defer func() {
		if v := recover(); !returned { // it may also have ended its goroutine
			err := error(http.ErrAbortHandler)
			if v != nil && v != err {
				err = t.panicked("handler", v)
			}
			err = asOpError("handler", hostOfURL(req), err)
			w.once.Do(func() {
				w.err = err
				close(w.begun)
			})
			w.w.CloseWithError(err)
		}
	}()
	t.handler.ServeHTTP(w, req)
	returned = true
	w.WriteHeader(http.StatusOK)
	w.w.Close()
}

// Read implements io.Reader for the response.
func (w *handlerWriter) Read(p []byte) (int, error) { return w.r.Read(p) }

// Close implements io.Closer for the response.
func (w *handlerWriter) Close() error {
	w.cancel()
	w.r.Close()
	<-w.done
	return nil
}

// Header implements http.ResponseWriter.
func (w *handlerWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *handlerWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.res = &http.Response{
			StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: w.header.Clone(), Body: w, ContentLength: -1,
		}
		if n, err := strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err == nil {
			w.res.ContentLength = n
		}
		close(w.begun)
	})
}

// Write implements http.ResponseWriter.
func (w *handlerWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.w.Write(p)
}

// Flush implements http.Flusher. Nothing is held back.
func (w *handlerWriter) Flush() { w.WriteHeader(http.StatusOK) }
