// Demo starts origin servers and a proxy in this process, drives the proxy as clients
// would, and prints what the proxy saw, changed, answered itself, refused and tunnelled, in
// the clear and inside TLS. It needs no network and ends by itself.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/mitm"
)

func main() {
	shop := httptest.NewServer(http.HandlerFunc(serveShop))
	defer shop.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(serveShop))
	secure.EnableHTTP2 = true
	secure.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that leave in a handshake are part of the demo
	secure.StartTLS()                                   // with a certificate for *.example.com
	defer secure.Close()
	echo := listen()
	defer echo.Close()
	go serveEcho(echo)

	ca, err := mitm.NewCA("demo CA")
	if err != nil {
		log.Fatal(err)
	}
	flows := make(chan *mitm.Flow, 16)
	p := newProxy(flows, map[string]string{
		"shop.example.com:80":  shop.Listener.Addr().String(),
		"shop.example.com:443": secure.Listener.Addr().String(),
		"bank.example.com:443": secure.Listener.Addr().String(),
		"forged.example:443":   secure.Listener.Addr().String(),
		"intra.example:80":     shop.Listener.Addr().String(),
		"echo.example:7":       echo.Addr().String(),
	})
	p.CA = ca                                                       // without it TLS would be tunnelled
	p.OriginTLS = &tls.Config{RootCAs: trust(secure.Certificate())} // in place of the system's

	l := listen()
	go p.Serve(l)
	fmt.Printf("proxy   listens on %v\n", l.Addr())
	drive(l.Addr().String(), trust(ca.Certificate()), trust(secure.Certificate()), flows)
	if err := p.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("\nproxy   closed, nothing left behind")
}

func trust(cert *x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return pool
}

// newProxy returns the proxy of the demo, which sends what it did to flows. Names are
// looked up in hosts, so that the demo stays on this machine.
func newProxy(flows chan<- *mitm.Flow, hosts map[string]string) *mitm.Proxy {
	return &mitm.Proxy{
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			to, ok := hosts[addr]
			if !ok {
				return nil, &net.DNSError{Err: "no such host", Name: strings.Split(addr, ":")[0], IsNotFound: true}
			}
			return new(net.Dialer).DialContext(ctx, network, to)
		},
		Hooks: []mitm.Hook{
			mitm.OnConn(decide),
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path == "/weather" {
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("always sunny\n"))}, nil
				}
				req.Header.Set("X-Demo", "added by the proxy")
				return nil, nil
			}),
			mitm.OnResponse(func(res *http.Response) error {
				if res.Request.URL.Path == "/price" {
					res.Body.Close()
					res.Body = io.NopCloser(strings.NewReader("price: 1 (was 100)\n"))
				}
				return nil
			}),
			mitm.OnDone(func(f *mitm.Flow) {
				if f.Method != http.MethodConnect || f.Tunnel || f.Err != nil { // a CONNECT that was opened has its exchanges inside
					flows <- f
				}
			}),
		},
	}
}

// decide is the policy: by destination before anything is dialled, and by the name that a
// TLS client asks for.
func decide(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
	switch {
	case strings.HasPrefix(c.Destination.Addr, "intra."):
		return mitm.Reject, errors.New("internal host")
	case c.ServerName == "bank.example.com":
		return mitm.Tunnel, nil
	}
	return mitm.Default, nil
}

// printFlow is what an access log would do.
func printFlow(f *mitm.Flow) {
	if f.Tunnel {
		fmt.Printf("  proxy   tunnel %s: %d bytes up, %d down\n", f.URL, f.Sent(), f.Received())
		return
	}
	fmt.Printf("  proxy   %s %s -> %d, %d bytes", f.Method, f.URL, f.Status, f.Received())
	if f.Err != nil {
		fmt.Printf(" (%v)", f.Err)
	}
	fmt.Println()
}

func serveShop(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/price":
		fmt.Fprintln(w, "price: 100")
	case "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			fmt.Fprintf(w, "data: event %d\n\n", i+1)
			w.(http.Flusher).Flush()
		}
	default:
		fmt.Fprintf(w, "origin saw %s %s in %s with X-Demo: %s\n", req.Method, req.URL, req.Proto, req.Header.Get("X-Demo"))
	}
}

func serveEcho(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			io.Copy(nc, nc)
		}()
	}
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return l
}
