#!/usr/bin/env bash
# http.Transport.ResponseHeaderTimeout of Go counts from the end of the request to the final response: interim
# responses (1xx) do not renew it.
#
# Guess: an interim response is a response header, so a server that shows by 102 (Processing) that it is at work is
# waited for. Seen with Go 1.26.8, net/http over HTTP/1.1 and over HTTP/2: a request fails at the first timeout,
# although a 102 came every fifth of it. An intermediary that passes 1xx on has to bound the time between responses,
# not that to the last one.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
cat >go.mod <<'MOD'
module finding
go 1.26
toolchain go1.26.8
MOD
cat >main.go <<'GO'
package main

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"time"
)

const timeout = time.Second

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &http.Server{Protocols: both, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			w.WriteHeader(http.StatusProcessing)
			time.Sleep(timeout / 5)
		}
		w.WriteHeader(http.StatusOK)
	})}
	go server.Serve(l)
	for name, set := range map[string]func(*http.Protocols, bool){"HTTP/1.1": (*http.Protocols).SetHTTP1, "HTTP/2": (*http.Protocols).SetUnencryptedHTTP2} {
		p := new(http.Protocols)
		set(p, true)
		interim := 0
		req, _ := http.NewRequest("GET", "http://"+l.Addr().String(), nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { interim++; return nil },
		}))
		res, err := (&http.Transport{Protocols: p, ResponseHeaderTimeout: timeout}).RoundTrip(req)
		outcome := "status 200"
		if err != nil {
			outcome = "timeout"
		} else {
			res.Body.Close()
		}
		fmt.Printf("%s: %s; 1xx came before: %v\n", name, outcome, interim > 2)
	}
}
GO
go run . | sort | tee seen.txt
cat >expected.txt <<'TXT'
HTTP/1.1: timeout; 1xx came before: true
HTTP/2: timeout; 1xx came before: true
TXT
diff expected.txt seen.txt
