// Intercept is an HTTP and SOCKS5 proxy that opens TLS and prints what is inside. The clients
// have to trust its certificate, which is in the file mitm-ca.pem of the directory given by
// -cadir and at http://mitm.invalid/ through the proxy:
//
//	go run ./examples/intercept &
//	curl -x http://127.0.0.1:8080 --cacert mitm-ca/mitm-ca.pem https://example.com/
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net/http"
	"strings"

	"example.com/mitm"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	cadir := flag.String("cadir", "mitm-ca", "directory of the certificate and its key, made if it is not there")
	tunnel := flag.String("tunnel", "", "host names, with commas between, that are not looked into")
	agent := flag.String("agent", "", "what becomes of the User-Agent of requests, if not empty")
	flag.Parse()

	ca, err := mitm.OpenCA(*cadir)
	if err != nil {
		log.Fatal(err)
	}
	pinned := map[string]bool{}
	for name := range strings.SplitSeq(*tunnel, ",") {
		pinned[name] = true
	}
	p := &mitm.Proxy{
		CA:   ca,
		Mode: mitm.Explicit{Host: "mitm.invalid"},
		Hooks: []mitm.Hook{
			mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.ServerName != "" && pinned[c.ServerName] {
					return mitm.Tunnel, nil
				}
				return mitm.Default, nil
			}),
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if *agent != "" {
					req.Header.Set("User-Agent", *agent)
				}
				return nil, nil
			}),
			mitm.OnDone(printFlow),
		},
	}
	fmt.Printf("listening on %s, clients need %s/mitm-ca.pem\n", *addr, *cadir)
	log.Fatal(p.ListenAndServe(*addr))
}

func printFlow(f *mitm.Flow) {
	proto := "tunnel"
	if f.Request != nil {
		proto = f.Request.Proto
	}
	fmt.Printf("%-8s %s %s -> %d, %d bytes", proto, f.Method, f.URL, f.Status, f.Received())
	if f.Err != nil {
		fmt.Printf(" (%v)", f.Err)
	}
	fmt.Println()
}
