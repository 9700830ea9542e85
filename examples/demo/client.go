package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.com/mitm"
)

// drive is the clients. After each step it prints what the proxy has to say about it. The
// clients trust the CA of the proxy, but for the one that insists on the origin's own
// certificate.
func drive(proxy string, ca, own *x509.CertPool, flows <-chan *mitm.Flow) {
	plain, socks := through("http", proxy, ca, false), through("socks5", proxy, ca, false)
	http2, pinned := through("http", proxy, ca, true), through("http", proxy, own, false)
	for _, step := range []struct {
		what   string
		client *http.Client
		url    string
	}{
		{"a request passes, with a field that the proxy added", plain, "http://shop.example.com/headers"},
		{"a response is edited on its way", plain, "http://shop.example.com/price"},
		{"the proxy answers for a host that does not exist", plain, "http://api.example.com/weather"},
		{"a destination is refused before anything is dialled", plain, "http://intra.example/secrets"},
		{"events arrive one by one, as the origin sends them", plain, "http://shop.example.com/events"},
		{"a host that can't be reached is an honest 502", plain, "http://gone.example/"},
		{"a SOCKS5 client on the same port is seen likewise", socks, "http://shop.example.com/price"},
		{"TLS is opened: the same hooks see and edit what is inside", plain, "https://shop.example.com/price"},
		{"TLS over SOCKS5 too", socks, "https://shop.example.com/headers"},
		{"HTTP/2 on both sides, the same hooks", http2, "https://shop.example.com/headers"},
		{"events over HTTP/2", http2, "https://shop.example.com/events"},
		{"the proxy answers inside TLS for a host that does not exist", http2, "https://api.example.com/weather"},
		{"an origin whose certificate is wrong is not asked, and the client is told why", http2, "https://forged.example/"},
	} {
		fmt.Printf("\n* %s\n", step.what)
		get(step.client, step.url)
		printFlow(<-flows)
	}
	fmt.Printf("\n* a client that insists on the origin's own certificate is noticed\n")
	refuse(pinned, "https://shop.example.com/price")
	printFlow(<-flows)
	fmt.Printf("\n* a hook has such a host tunnelled by its name: the certificate is the origin's own\n")
	get(pinned, "https://bank.example.com/price")
	pinned.CloseIdleConnections()
	printFlow(<-flows)
	fmt.Printf("\n* CONNECT: bytes that are not HTTP pass untouched\n")
	tunnel(proxy)
	printFlow(<-flows)
	for _, client := range []*http.Client{plain, socks, http2} {
		client.CloseIdleConnections()
	}
}

// through returns a client that reaches everything by way of the proxy.
func through(scheme, proxy string, roots *x509.CertPool, http2 bool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy}),
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: http2,
	}}
}

func get(client *http.Client, url string) {
	res, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	if res.TLS != nil {
		fmt.Printf("  client  certificate issued by %v\n", res.TLS.PeerCertificates[0].Issuer)
	}
	fmt.Printf("  client  %s %s\n", res.Proto, res.Status)
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() != "" {
			fmt.Printf("  client  | %s\n", lines.Text())
		}
	}
}

// refuse is a get that fails.
func refuse(client *http.Client, url string) {
	res, err := client.Get(url)
	if err == nil {
		log.Fatalf("%s: %s", url, res.Status)
	}
	fmt.Printf("  client  %v\n", err)
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
