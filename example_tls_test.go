package mitm_test

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
	"net/netip"
	"strings"

	"example.com/mitm"
)

// exampleCA returns an authority that lives as long as the process, and roots that trust it.
func exampleCA() (*mitm.CA, *x509.CertPool) {
	ca, err := mitm.NewCA("")
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	return ca, roots
}

// trusting returns a client that goes through p and trusts roots.
func trusting(p *mitm.Proxy, roots *x509.CertPool) *http.Client {
	client := through(p)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	return client
}

// Answer for an https host that need not exist.
func ExampleNewCA() {
	ca, roots := exampleCA()
	offline := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no network here") }
	proxy := &mitm.Proxy{CA: ca, Dial: offline, Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			fmt.Println("asked for", req.URL)
			return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("paid"))}, nil
		}),
	}}
	defer proxy.Close()

	show(trusting(proxy, roots), "https://bank.invalid/account")
	// Output:
	// asked for https://bank.invalid/account
	// 200 paid
}

// See and change what an https origin sends.
func ExampleProxy_intercept() {
	origin := httptest.NewTLSServer(http.HandlerFunc(greet))
	defer origin.Close()
	ca, roots := exampleCA()
	proxy := &mitm.Proxy{
		CA:        ca,
		OriginTLS: &tls.Config{RootCAs: origin.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs},
		Hooks: []mitm.Hook{
			mitm.OnResponse(func(res *http.Response) error {
				res.Header.Set("X-Seen", "by the proxy")
				return nil
			}),
		},
	}
	defer proxy.Close()

	res, err := trusting(proxy, roots).Get(origin.URL + "/secret")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	content, _ := io.ReadAll(res.Body)
	fmt.Println(res.Header.Get("X-Seen"), "-", string(content))
	// Output:
	// by the proxy - hello from /secret
}

// Decide with the ClientHello in hand: here, leave a host alone whose clients accept its own
// certificate only.
func ExampleOnConn_tunnel() {
	origin := httptest.NewTLSServer(http.HandlerFunc(greet))
	defer origin.Close()
	ca, _ := exampleCA()
	proxy := &mitm.Proxy{CA: ca, Hooks: []mitm.Hook{
		mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.ClientHello != nil && c.ServerName == "example.com" {
				return mitm.Tunnel, nil
			}
			return mitm.Default, nil
		}),
	}}
	defer proxy.Close()

	client := through(proxy)
	client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{
		ServerName: "example.com",
		RootCAs:    origin.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	}
	show(client, origin.URL+"/pinned")
	// Output:
	// 200 hello from /pinned
}

// Verify one origin by rules of its own.
func ExampleDestination() {
	origin := httptest.NewTLSServer(http.HandlerFunc(greet)) // self-signed
	defer origin.Close()
	itsOwn := &tls.Config{
		ServerName: "example.com", // which its certificate has
		RootCAs:    origin.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs,
	}
	ca, roots := exampleCA()
	done := make(chan error, 1)
	proxy := &mitm.Proxy{CA: ca, Hooks: []mitm.Hook{
		mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.Destination.Addr == "internal.invalid:443" {
				c.Destination.Addr, c.Destination.OriginTLS = origin.Listener.Addr().String(), itsOwn
			}
			return mitm.Default, nil
		}),
		mitm.OnDone(func(f *mitm.Flow) {
			if f.Method == "GET" {
				done <- f.Err
			}
		}),
	}}
	defer proxy.Close()

	client := trusting(proxy, roots)
	show(client, "https://internal.invalid/")
	fmt.Println(<-done)
	res, err := client.Get(origin.URL)
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	var unverified *tls.CertificateVerificationError
	fmt.Println(res.StatusCode, errors.As(<-done, &unverified))
	// Output:
	// 200 hello from /
	// <nil>
	// 502 true
}

// Give a secret to one host only. What the hooks could not read is refused, and so are addresses of
// this network; the name is the one that the origin's certificate is verified for, whatever the
// client claims.
func ExampleRefuseUnread() {
	origin := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "secret: %q", req.Header.Get("Authorization"))
	}))
	defer origin.Close()
	ca, roots := exampleCA()
	dial := mitm.CheckedDial(func(ctx context.Context, addr netip.AddrPort) error {
		if addr.Addr().IsPrivate() {
			return fmt.Errorf("%s is private", addr)
		}
		return nil
	})
	proxy := &mitm.Proxy{
		CA:        ca,
		OriginTLS: origin.Client().Transport.(*http.Transport).TLSClientConfig,
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if addr == "example.com:443" { // the certificate of the test server has that name
				addr = origin.Listener.Addr().String()
			}
			return dial(ctx, network, addr)
		},
		Hooks: []mitm.Hook{
			mitm.RefuseUnread(), // first, so that it sees requests as they came
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if mitm.FlowFromContext(req.Context()).VerifiedName == "example.com" {
					req.Header.Set("Authorization", "Bearer s3cret")
				}
				return nil, nil
			}),
		},
	}
	defer proxy.Close()

	client := trusting(proxy, roots)
	show(client, "https://example.com/")
	show(client, origin.URL) // the same server, but verified as 127.0.0.1
	show(client, "https://10.0.0.1/")
	fronting, _ := http.NewRequest(http.MethodGet, "https://example.com/", nil)
	fronting.Host = "other.example.com"
	res, err := client.Do(fronting)
	if err != nil {
		log.Fatal(err)
	}
	res.Body.Close()
	fmt.Println(res.StatusCode)
	// Output:
	// 200 secret: "Bearer s3cret"
	// 200 secret: ""
	// 403 destination rejected
	// 403
}
