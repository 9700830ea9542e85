package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/mitm"
)

// newPages is a proxy with pages under mitm.invalid, which dials nothing and asks no hooks but
// DoneHooks.
func newPages(t *testing.T, handler http.Handler) (p *mitm.Proxy, flows chan *mitm.Flow) {
	t.Helper()
	done, flows := doneHook()
	return &mitm.Proxy{
		Mode: mitm.Explicit{Host: "mitm.invalid", Handler: handler}, CA: newCA(t), Dial: noDial(t),
		Hooks: []mitm.Hook{done, unreadHook(t), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			t.Errorf("a hook was asked about %s", c.Destination.Addr)
			return mitm.Reject, nil
		})},
	}, flows
}

// pageClients are ways to the pages.
func pageClients(t *testing.T, proxy string, ca *mitm.CA) map[string]*http.Client {
	clients := map[string]*http.Client{}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
			for _, scheme := range []string{"http", "socks5"} {
				client := secureClient{t, version, protocol}.through(proxy, ca)
				client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy})
				clients[scheme+" "+tls.VersionName(version)+" "+protocol] = client
			}
		}
	}
	return clients
}

// The CA's certificate can be had from the proxy itself.
func TestPages(t *testing.T) {
	p, flows := newPages(t, nil)
	proxy := start(t, p)
	for name, client := range pageClients(t, proxy, p.CA) {
		t.Run(name, func(t *testing.T) {
			for _, site := range []string{"http://mitm.invalid", "https://mitm.invalid", "http://MITM.Invalid:8080"} {
				url := site
				if strings.HasPrefix(name, "socks5") { // the connection has a destination
					url = strings.ToLower(site)
				}
				get := func(path string, status int) (body, kind string) {
					t.Helper()
					res, err := client.Get(site + path)
					body = content(t, res, err)
					if res.StatusCode != status {
						t.Errorf("%s%s: %s", site, path, res.Status)
					}
					f := flowOf(t, flows, url+path)
					if f.Status != status || f.Err != nil || f.Tunnel || f.Received() != int64(len(body)) {
						t.Errorf("flow: %d, %v, %d bytes", f.Status, f.Err, f.Received())
					}
					return body, res.Header.Get("Content-Type")
				}
				body, kind := get("/cert.pem", 200)
				block, rest := pem.Decode([]byte(body))
				if block == nil || !slices.Equal(block.Bytes, p.CA.Certificate().Raw) || len(rest) > 0 || kind != "application/x-pem-file" {
					t.Errorf("PEM as %s: %q", kind, body)
				}
				body, kind = get("/cert.der", 200)
				if cert, err := x509.ParseCertificate([]byte(body)); err != nil || !cert.Equal(p.CA.Certificate()) || kind != "application/x-x509-ca-cert" {
					t.Errorf("DER as %s: %v", kind, err)
				}
				body, kind = get("/", 200)
				if !strings.Contains(body, "trust") || !strings.Contains(body, `href="/cert.pem"`) || !strings.HasPrefix(kind, "text/html") {
					t.Errorf("/ is %s: %q", kind, body)
				}
				get("/nothing", 404)
				if strings.HasPrefix(site, "https") {
					res, err := client.Head(site + "/cert.pem?head")
					want(t, content(t, res, err)+res.Status[:3], "200")
				}
			}
		})
	}
}

// Without a CA there is a page that says so, but not over TLS.
func TestPagesWithoutCA(t *testing.T) {
	p, flows := newPages(t, nil)
	p.CA = nil
	proxy := start(t, p)
	c := dial(t, proxy)
	c.send("GET http://mitm.invalid/ HTTP/1.1\r\nHost: mitm.invalid\r\n\r\n")
	if _, body := c.response("GET"); !strings.Contains(body, "no certificate") {
		t.Errorf("/ is %q", body)
	}
	c.send("GET http://mitm.invalid/cert.pem HTTP/1.1\r\nHost: mitm.invalid\r\n\r\n")
	c.wantStatus(404)
	for range 2 {
		nextFlow(t, flows)
	}
	c = connect(t, proxy, "mitm.invalid:443", "")
	err := tls.Client(c.Conn, &tls.Config{ServerName: "mitm.invalid"}).Handshake()
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v", err)
	}
	if f := nextFlow(t, flows); f.Err == nil {
		t.Error("the reset is not in the flow")
	}
}

// A handler of the embedder's own serves like one of net/http: it reads, streams, and its
// panics are survived.
func TestPagesHandler(t *testing.T) {
	next := make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(req.Host, req.URL.Path, req.TLS != nil))
		w.WriteHeader(http.StatusCreated)
		io.Copy(w, req.Body)
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, _ *http.Request) {
		for _, part := range []string{"one ", "two ", "three"} {
			io.WriteString(w, part)
			w.(http.Flusher).Flush()
			<-next
		}
	})
	mux.HandleFunc("GET /trailer", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "X-End")
		io.WriteString(w, "content")
		w.Header().Set("X-End", "too late")
	})
	mux.HandleFunc("GET /nothing", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /wait", func(w http.ResponseWriter, req *http.Request) { // for HEAD, too
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("oops") })
	mux.HandleFunc("GET /abort", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	mux.HandleFunc("GET /halfway", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		panic("oops")
	})
	p, _ := newPages(t, mux)
	log := new(records)
	p.Logger, p.Hooks = log.logger(), p.Hooks[1:]
	proxy := start(t, p)
	for name, client := range pageClients(t, proxy, p.CA) {
		for _, scheme := range []string{"http", "https"} {
			t.Run(name+" "+scheme, func(t *testing.T) {
				site := scheme + "://mitm.invalid"
				big := strings.Repeat("content ", 1<<16)
				res, err := client.Post(site+"/echo", "text/plain", strings.NewReader(big))
				if body := content(t, res, err); body != big || res.StatusCode != http.StatusCreated {
					t.Errorf("%s with %d bytes", res.Status, len(body))
				}
				want(t, res.Header.Get("X-Seen"), fmt.Sprint("mitm.invalid", "/echo", scheme == "https"))
				res, err = client.Get(site + "/stream")
				if err != nil {
					t.Fatal(err)
				}
				for _, part := range []string{"one ", "two ", "three"} {
					b := make([]byte, len(part))
					io.ReadFull(res.Body, b)
					want(t, string(b), part)
					next <- true
				}
				want(t, content(t, res, nil), "")
				res, err = client.Get(site + "/trailer")
				want(t, content(t, res, err), "content")
				res, err = client.Get(site + "/nothing")
				want(t, content(t, res, err)+res.Status[:3], "200")
				res, err = client.Get(site + "/gone")
				want(t, content(t, res, err)+res.Status[:3], "204")
				res, err = client.Head(site + "/wait")
				want(t, content(t, res, err)+res.Status[:3], "200")
				logged := log.count()
				res, err = client.Get(site + "/panic")
				if body := content(t, res, err); res.StatusCode != http.StatusBadGateway || strings.Contains(body, "oops") {
					t.Errorf("a panic: %s, %q", res.Status, body)
				}
				if _, err := client.Get(site + "/abort"); err == nil {
					t.Error("http.ErrAbortHandler has a response")
				}
				if log.count() != logged+1 {
					t.Errorf("%d log records", log.count()-logged)
				}
				res, err = client.Get(site + "/halfway")
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if err == nil {
					t.Error("half a page looks complete")
				}
			})
		}
	}
}

// A client that leaves ends the handler's context.
func TestPagesClientGone(t *testing.T) {
	begun, ended := make(chan bool), make(chan error, 1)
	p, flows := newPages(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		begun <- true
		<-req.Context().Done()
		ended <- req.Context().Err()
	}))
	c := dial(t, start(t, p))
	c.send("GET http://mitm.invalid/ HTTP/1.1\r\nHost: mitm.invalid\r\n\r\n")
	receive(t, begun)
	c.Close()
	if err := receive(t, ended); err != context.Canceled {
		t.Errorf("the context ended with %v", err)
	}
	if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrClientGone) {
		t.Errorf("flow ended with %v", f.Err)
	}
}

// Where credentials are needed they are needed for the pages, too.
func TestPagesAuthenticate(t *testing.T) {
	p, _ := newPages(t, nil)
	p.Mode = mitm.Explicit{Host: "mitm.invalid", Authenticate: mitm.Passwords(map[string]string{"a": "b"})}
	proxy := start(t, p)
	for _, request := range []string{"GET http://mitm.invalid/cert.pem", "CONNECT mitm.invalid:443"} {
		for credentials, status := range map[string]int{"": 407, basic("a:c"): 407, basic("a:b"): 200} {
			c := dial(t, proxy)
			c.send(request + " HTTP/1.1\r\nHost: mitm.invalid\r\n" + credentials + "\r\n")
			if head := c.head(); !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", status)) {
				t.Errorf("%s with %q: %q", request, credentials, head)
			}
		}
	}
	c := dial(t, proxy)
	c.send(noAuth)
	want(t, c.read(2), "\x05\xff")
	client := secureClient{t, tls.VersionTLS13, "HTTP/2.0"}.through(proxy, p.CA)
	for _, scheme := range []string{"http", "socks5"} {
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: proxy, User: url.UserPassword("a", "b")})
		res, err := client.Get("https://mitm.invalid/cert.pem")
		want(t, content(t, res, err), string(p.CA.PEM()))
		client.CloseIdleConnections()
	}
}

// A connection that leads elsewhere does not get there by a Host field or a server name.
func TestPagesElsewhere(t *testing.T) {
	addr, heads := answering(t, ok200)
	for name, test := range map[string]struct {
		mode mitm.Mode
		open func(t testing.TB, proxy string) *peer
	}{
		"transparent": {mitm.Transparent{Lookup: lookup(addr)}, func(t testing.TB, proxy string) *peer { return dial(t, proxy) }},
		"CONNECT":     {mitm.Explicit{Host: "mitm.invalid"}, func(t testing.TB, proxy string) *peer { return connect(t, proxy, addr, "") }},
		"SOCKS5":      {mitm.Explicit{Host: "mitm.invalid"}, func(t testing.TB, proxy string) *peer { return socksTo(t, proxy, addr, "") }},
	} {
		for _, ca := range []*mitm.CA{nil, newCA(t)} {
			c := test.open(t, start(t, &mitm.Proxy{Mode: test.mode, CA: ca}))
			c.send("GET /cert.pem HTTP/1.1\r\nHost: mitm.invalid\r\n\r\n")
			if _, body := c.response("GET"); body != "ok" {
				t.Errorf("%s: got %q", name, body)
			}
			<-heads
		}
	}
	site := httptest.NewTLSServer(http.HandlerFunc(describe))
	defer site.Close()
	p := &mitm.Proxy{Mode: mitm.Explicit{Host: "mitm.invalid"}, CA: newCA(t), OriginTLS: &tls.Config{InsecureSkipVerify: true}}
	c := connect(t, start(t, p), site.Listener.Addr().String(), "")
	tc := tls.Client(c.Conn, &tls.Config{ServerName: "mitm.invalid", RootCAs: poolOf(p.CA.Certificate())})
	io.WriteString(tc, "GET /cert.pem HTTP/1.1\r\nHost: mitm.invalid\r\n\r\n")
	_, body := (&peer{tc, t, bufio.NewReader(tc)}).response("GET")
	want(t, body, "HTTP/1.1 /cert.pem")
}

// A Host that no request can name is an error before the first connection.
func TestPagesHost(t *testing.T) {
	for _, host := range []string{"mitm.invalid:80", "mitm.invalid/", "http://mitm.invalid", "mitm invalid", "a@mitm.invalid", "[::1]", "\x00", "a\r\nb", "?", ":", "mitm.invalid#"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := &mitm.Proxy{Mode: mitm.Explicit{Host: host}}
		if err := p.Serve(l); err == nil || errors.Is(err, mitm.ErrProxyClosed) || !strings.Contains(err.Error(), "Explicit.Host") {
			t.Errorf("%q: Serve returned %v", host, err)
		}
		p.Close()
	}
}
