package main

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"path"
	"strconv"
)

// http2Origin answers with as many bytes of content as the path says. It is net/http's.
type http2Origin struct{ certificate tls.Certificate }

func (o http2Origin) serve(l net.Listener) error {
	s := &http.Server{
		Handler:   o,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{o.certificate}},
		Protocols: new(http.Protocols),
	}
	s.Protocols.SetHTTP2(true)
	return s.ServeTLS(l, "", "")
}

// ServeHTTP implements http.Handler.
func (http2Origin) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	size, err := strconv.ParseInt(path.Base(req.URL.Path), 10, 64)
	if err != nil {
		http.Error(w, "no such path", http.StatusBadRequest)
		return
	}
	if req.Method == http.MethodPost {
		n, err := checkPattern(req.Body, -1, make([]byte, 16<<10))
		if err != nil || n != uploadSize(req.URL.Path) {
			http.Error(w, fmt.Sprintf("content of %d bytes: %v", n, err), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.Header().Set("Content-Type", "application/octet-stream")
	writePattern(w, size)
}
