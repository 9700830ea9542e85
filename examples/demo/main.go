// Demo starts an origin server and a proxy in this process, drives the proxy as a client
// would, and prints what the proxy saw, changed, answered itself, refused and tunnelled.
// It needs no network and ends by itself.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"time"

	"example.com/mitm"
)

func main() {
	shop := httptest.NewServer(http.HandlerFunc(serveShop))
	defer shop.Close()
	echo := listen()
	defer echo.Close()
	go serveEcho(echo)

	l := listen()
	flows := make(chan *mitm.Flow, 1)
	p := newProxy(flows, map[string]string{
		"shop.example:80":  shop.Listener.Addr().String(),
		"echo.example:7":   echo.Addr().String(),
		"intra.example:80": shop.Listener.Addr().String(),
	})
	go p.Serve(l)
	fmt.Printf("proxy   listens on %v\n", l.Addr())
	drive(l.Addr().String(), flows)
	if err := p.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("\nproxy   closed, nothing left behind")
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
			mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if strings.HasPrefix(c.Destination.Addr, "intra.") {
					return mitm.Reject, errors.New("internal host")
				}
				return mitm.Default, nil
			}),
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path == "/weather" {
					return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("always sunny\n"))}, nil
				}
				req.Header.Set("X-Demo", "added by the proxy")
				return nil, nil
			}),
			mitm.OnResponse(func(res *http.Response) error {
				if res.Request.URL.Path == "/price" {
					res.Body = io.NopCloser(strings.NewReader("price: 1 (was 100)\n"))
				}
				return nil
			}),
			mitm.OnDone(func(f *mitm.Flow) { flows <- f }),
		},
	}
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

// drive is the client. After each step it prints what the proxy has to say about it.
func drive(proxy string, flows <-chan *mitm.Flow) {
	overHTTP, overSOCKS := through("http", proxy), through("socks5", proxy)
	defer overHTTP.CloseIdleConnections()
	defer overSOCKS.CloseIdleConnections()
	for _, step := range []struct{ what, url string }{
		{"a request passes, with a field that the proxy added", "http://shop.example/headers"},
		{"a response is edited on its way", "http://shop.example/price"},
		{"the proxy answers for a host that does not exist", "http://api.example/weather"},
		{"a destination is refused before anything is dialled", "http://intra.example/secrets"},
		{"events arrive one by one, as the origin sends them", "http://shop.example/events"},
		{"a host that can't be reached is an honest 502", "http://gone.example/"},
	} {
		fmt.Printf("\n* %s\n", step.what)
		get(overHTTP, step.url)
		printFlow(<-flows)
	}
	fmt.Printf("\n* a SOCKS5 client on the same port is seen likewise\n")
	get(overSOCKS, "http://shop.example/price")
	printFlow(<-flows)
	fmt.Printf("\n* CONNECT: bytes that are not HTTP pass untouched\n")
	tunnel(proxy)
	printFlow(<-flows)
}

// through returns a client that reaches everything by way of the proxy.
func through(scheme, proxy string) *http.Client {
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy})}
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

func get(client *http.Client, url string) {
	res, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	fmt.Printf("  client  %s\n", res.Status)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() != "" {
			fmt.Printf("  client  | %s\n", lines.Text())
		}
	}
}

// tunnel speaks with the echo server through a CONNECT. The end of what the client sends
// reaches the server, which then ends too.
func tunnel(proxy string) {
	nc, err := net.Dial("tcp", proxy)
	if err != nil {
		log.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprint(nc, "CONNECT echo.example:7 HTTP/1.1\r\nHost: echo.example:7\r\n\r\n")
	r := bufio.NewReader(nc)
	res, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("  client  %s\n", res.Status)
	fmt.Fprintln(nc, "hello through the tunnel")
	nc.(*net.TCPConn).CloseWrite()
	all, err := io.ReadAll(r)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("  client  | %s\n", strings.TrimSpace(string(all)))
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
		fmt.Fprintf(w, "origin saw %s %s with X-Demo: %s\n", req.Method, req.URL, req.Header.Get("X-Demo"))
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
