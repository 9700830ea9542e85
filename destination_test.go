package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"example.com/mitm"
)

// onDestination is a ConnHook that changes every destination.
func onDestination(change func(d *mitm.Destination)) mitm.Hook {
	return mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		change(&c.Destination)
		return mitm.Default, nil
	})
}

// noNetwork is what README has for tests.
func noNetwork(use func(p *mitm.Proxy, ca *mitm.CA, l net.Listener), dial mitm.DialFunc) error {
	ca, err := mitm.NewCA("test") // for clients to trust: ca.PEM()
	if err != nil {
		return err
	}
	site := http.NewServeMux()
	site.HandleFunc("api.example.com/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"ok":true}`) })
	p := &mitm.Proxy{CA: ca, Hooks: []mitm.Hook{
		mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			c.Destination.Handler = site // whatever the destination is
			return mitm.Default, nil
		}),
	}}
	p.Dial = dial   // not in README
	defer p.Close() // returns when no goroutine is left
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go p.Serve(l)
	use(p, ca, l)
	return nil
}

// README's snippet is the body of noNetwork.
func TestR63_NoNetworkIsInREADME(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("destination_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "dial mitm.DialFunc) error {\n")
	body, _, _ = strings.Cut(body, "\tuse(p, ca, l)")
	body = strings.ReplaceAll(body, "\tp.Dial = dial   // not in README\n", "")
	if body = strings.ReplaceAll("\n"+body, "\n\t", "\n"); !strings.Contains(string(readme), "```go"+body+"```") {
		t.Errorf("README has no\n%s", body)
	}
}

// What README has for tests dials nothing and looks nothing up, however a client asks.
func TestR63_NoNetwork(t *testing.T) {
	t.Parallel()
	err := noNetwork(func(p *mitm.Proxy, ca *mitm.CA, l net.Listener) {
		for name, client := range pageClients(t, l.Addr().String(), ca) {
			for _, scheme := range []string{"http", "https"} {
				res, err := client.Get(scheme + "://api.example.com/users/1")
				if body := content(t, res, err); body != `{"ok":true}` || res.StatusCode != 200 {
					t.Errorf("%s %s: %s %q", name, scheme, res.Status, body)
				}
				res, err = client.Get(scheme + "://other.example.com/")
				if content(t, res, err); res.StatusCode != 404 {
					t.Errorf("%s %s: another host has an answer: %s", name, scheme, res.Status)
				}
			}
		}
	}, noDial(t))
	if err != nil {
		t.Error(err)
	}
}

// lateClients are ways to site.test, by TLS and without, in both versions of HTTP.
func lateClients(t *testing.T, p *mitm.Proxy) map[string]*http.Client {
	p.CA = newCA(t)
	clients := map[string]*http.Client{}
	explicit, transparent := start(t, p), start(t, &mitm.Proxy{
		Mode: mitm.Transparent{Lookup: lookup(transparentAddr.String())},
		CA:   p.CA, Hooks: p.Hooks, Transport: p.Transport, Dial: p.Dial, OriginTLS: p.OriginTLS, Logger: p.Logger,
	})
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, scheme := range []string{"http", "socks5", "transparent"} {
			client := secureClient{t, tls.VersionTLS13, protocol}.through(explicit, p.CA)
			transport := client.Transport.(*http.Transport)
			if transport.Proxy = http.ProxyURL(&url.URL{Scheme: scheme, Host: explicit}); scheme == "transparent" {
				transport.Proxy = nil
				transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, transparent)
				}
			}
			clients[scheme+" "+protocol] = client
		}
	}
	return clients
}

// A Handler answers in place of an origin, with HTTPHooks around it, wherever the client comes from.
func TestR63_Handler(t *testing.T) {
	t.Parallel()
	site := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-End")
		if body, _ := io.ReadAll(req.Body); len(body) > 0 {
			w.Write(body)
		}
		fmt.Fprintf(w, "%s %s %s %v", req.Host, req.RequestURI, req.Header.Get("X-Hook"), req.TLS != nil)
		w.Header().Set("X-End", "end")
		w.Header().Set(http.TrailerPrefix+"X-More", "more")
	})
	for name, hooks := range map[string][]mitm.Hook{
		"plain": nil,
		"hooked": {mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Header.Set("X-Hook", "seen")
			return nil, nil
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hooks := append([]mitm.Hook{onDestination(func(d *mitm.Destination) { d.Handler = site })}, hooks...)
			// A Transport is not asked: it is for origins.
			for _, transport := range []http.RoundTripper{nil, roundTripper(func(req *http.Request) (*http.Response, error) {
				t.Errorf("the transport got %s", req.URL)
				return nil, errors.New("no")
			})} {
				p := &mitm.Proxy{Hooks: hooks, Dial: noDial(t), Transport: transport}
				for way, client := range lateClients(t, p) {
					for _, scheme := range []string{"http", "https"} {
						res, err := client.Post(scheme+"://site.test/x?y", "text/plain", strings.NewReader("content "))
						seen := ""
						if len(hooks) > 1 {
							seen = "seen"
						}
						got := content(t, res, err)
						if wanted := fmt.Sprintf("content site.test /x?y %s %v", seen, scheme == "https"); got != wanted {
							t.Errorf("%s %s: got %q, want %q", way, scheme, got, wanted)
						}
						want(t, res.Trailer.Get("X-End")+res.Trailer.Get("X-More"), "endmore")
						want(t, res.Header.Get("Content-Type"), "text/plain; charset=utf-8")
					}
				}
			}
		})
	}
}

// A Handler's response is framed as by net/http: a short one has a length, an early end is a cut, and
// a flush sends what is there.
func TestR63_HandlerWrites(t *testing.T) {
	t.Parallel()
	gone := make(chan bool, 64)
	mux := http.NewServeMux()
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "short") })
	mux.HandleFunc("/long", func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			io.WriteString(w, strings.Repeat("x", 1000))
		}
	})
	mux.HandleFunc("/unread", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		io.WriteString(w, "hinted")
	})
	mux.HandleFunc("/less", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		io.WriteString(w, "less")
	})
	mux.HandleFunc("/wait", func(w http.ResponseWriter, req *http.Request) {
		w.(http.Flusher).Flush()
		<-req.Context().Done()
		gone <- true
	})
	log := new(records)
	mux.HandleFunc("/panic", func(w http.ResponseWriter, _ *http.Request) { panic("oops") })
	mux.HandleFunc("/halfway", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "half"); panic("oops") })
	mux.HandleFunc("/abort", func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) })
	p := &mitm.Proxy{Dial: noDial(t), Logger: log.logger(), Hooks: []mitm.Hook{noChange(), onDestination(func(d *mitm.Destination) { d.Handler = mux })}}
	for way, client := range lateClients(t, p) {
		for _, site := range []string{"http://site.test", "https://site.test"} {
			t.Run(way+" "+site[:5], func(t *testing.T) {
				res, err := client.Get(site + "/short")
				if got := content(t, res, err); got != "short" || res.ContentLength != 5 {
					t.Errorf("%q, length %d", got, res.ContentLength)
				}
				res, err = client.Head(site + "/short")
				if got := content(t, res, err); got != "" || res.ContentLength != 5 {
					t.Errorf("HEAD: %q, length %d", got, res.ContentLength)
				}
				res, err = client.Get(site + "/long")
				want(t, content(t, res, err), strings.Repeat("x", 100000))
				res, err = client.Post(site+"/unread", "text/plain", io.MultiReader(strings.NewReader("not read")))
				if content(t, res, err); res.StatusCode != http.StatusAccepted {
					t.Errorf("unread: %s", res.Status)
				}
				res, err = client.Get(site + "/hints")
				want(t, content(t, res, err), "hinted")
				for _, path := range []string{"/less", "/halfway", "/abort"} {
					res, err = client.Get(site + path)
					if err == nil {
						_, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					if err == nil {
						t.Errorf("%s looks complete", path)
					}
				}
				logged := log.count()
				res, err = client.Get(site + "/panic")
				if body := content(t, res, err); res.StatusCode != http.StatusBadGateway || strings.Contains(body, "oops") || log.count() != logged+1 {
					t.Errorf("a panic: %s, %q, %d log records", res.Status, body, log.count()-logged)
				}
				ctx, cancel := context.WithCancel(t.Context())
				req, _ := http.NewRequestWithContext(ctx, "GET", site+"/wait", nil)
				if _, err = client.Do(req); err != nil {
					t.Fatal(err)
				}
				cancel()
				receive(t, gone)
			})
		}
	}
}

// What a hook leaves of a Handler's response does not hold up anything.
func TestR63_HandlerReplaced(t *testing.T) {
	t.Parallel()
	site := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for req.Context().Err() == nil { // as long as somebody wants it
			io.WriteString(w, strings.Repeat("x", 1000))
		}
	})
	p := &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{
		onDestination(func(d *mitm.Destination) { d.Handler = site }),
		mitm.OnResponse(func(res *http.Response) error {
			res.Body = io.NopCloser(strings.NewReader("replaced"))
			return nil
		}),
	}}
	for way, client := range lateClients(t, p) {
		for range 2 {
			res, err := client.Get("https://site.test/")
			if got := content(t, res, err); got != "replaced" {
				t.Errorf("%s: %q", way, got)
			}
		}
	}
}

// A Handler's goroutine and hooks do not get in each other's way: the response is the hooks' once it began.
func TestR63_HandlerAndHooks(t *testing.T) {
	t.Parallel()
	site := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Trailer", "X-End")
		for range 100 {
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			w.Header().Set("X-End", "end")
		}
	})
	p := &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{
		onDestination(func(d *mitm.Destination) { d.Handler = site }),
		mitm.OnResponse(func(res *http.Response) error {
			res.StatusCode = http.StatusAccepted
			res.Header.Set("X-Hook", "seen")
			return nil
		}),
	}}
	for way, client := range lateClients(t, p) {
		res, err := client.Get("https://site.test/")
		if got := content(t, res, err); len(got) != 100 || res.StatusCode != http.StatusAccepted || res.Trailer.Get("X-End") != "end" {
			t.Errorf("%s: %s, %d bytes, %v", way, res.Status, len(got), res.Trailer)
		}
	}
}

// Who speaks no HTTP where a Handler answers is reset, even if a hook answers Tunnel.
func TestR63_HandlerIsNoTunnel(t *testing.T) {
	t.Parallel()
	for _, action := range []mitm.Action{mitm.Default, mitm.Intercept, mitm.Tunnel} {
		for _, ca := range []*mitm.CA{nil, newCA(t)} {
			eachEntry(t, func(t *testing.T, e entry) {
				done, flows := doneHook()
				p := &mitm.Proxy{Mode: e.mode, CA: ca, Dial: noDial(t), Hooks: []mitm.Hook{done, mitm.OnConn(
					func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						c.Destination.Handler = http.NotFoundHandler()
						return action, nil
					})}}
				proxy := start(t, p)
				c := e.open(t, proxy, "SSH-2.0-client\r\n")
				c.closed()
				if f := nextFlow(t, flows); f.Err == nil {
					t.Error("nothing is said in the flow")
				}
				c = e.open(t, proxy, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
				c.wantStatus(404)
			})
		}
	}
}

// A mode of the embedder's own may have a Handler, too.
func TestR63_HandlerOfMode(t *testing.T) {
	t.Parallel()
	for _, protocol := range []mitm.Protocol{mitm.Unknown, mitm.HTTP1} {
		p := &mitm.Proxy{Dial: noDial(t), Mode: fixed(mitm.Destination{
			Addr: "site.test:80", Protocol: protocol, Handler: http.NotFoundHandler(),
		})}
		c := dial(t, start(t, p))
		for range 2 {
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			c.wantStatus(404)
		}
	}
}

// A hook that sends a request elsewhere has it dialled.
func TestR63_HandlerLeft(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	p := &mitm.Proxy{Hooks: []mitm.Hook{
		onDestination(func(d *mitm.Destination) { d.Handler = http.NotFoundHandler() }),
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.URL.Host = addr
			return nil, nil
		}),
	}}
	c := dial(t, start(t, p))
	c.send("GET http://site.test/ HTTP/1.1\r\nHost: site.test\r\n\r\n")
	c.wantStatus(200)
	receive(t, heads)
}

// With a Transport, and with DialLate, a hook or the transport answers without any connection.
func TestR63_NothingDialled(t *testing.T) {
	t.Parallel()
	answers := func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("here")), Request: req}, nil
	}
	late := onDestination(func(d *mitm.Destination) { d.DialLate = true })
	for name, p := range map[string]*mitm.Proxy{
		"Transport":            {Transport: roundTripper(answers)},
		"Transport with hooks": {Transport: roundTripper(answers), Hooks: []mitm.Hook{noChange()}},
		"DialLate":             {Hooks: []mitm.Hook{late, mitm.OnRequest(answers)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p.Dial = noDial(t)
			for way, client := range lateClients(t, p) {
				for _, scheme := range []string{"http", "https"} {
					for range 2 {
						res, err := client.Get(scheme + "://site.test/")
						if got := content(t, res, err); got != "here" {
							t.Errorf("%s %s: %q", way, scheme, got)
						}
					}
				}
			}
		})
	}
}

// What is dialled late is dialled when it is needed: for a request, and for what is only relayed.
func TestR63_DialLate(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		for _, ca := range []bool{true, false} {
			for _, hooks := range [][]mitm.Hook{nil, {noChange()}} {
				s := newSite(t, e)
				dialled := make(chan bool, 8)
				s.p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
					dialled <- true
					return s.dial(ctx, network, addr)
				}
				s.p.Hooks = append(hooks, onDestination(func(d *mitm.Destination) { d.DialLate = true }))
				if !ca {
					s.p.CA = nil
				}
				proxy := start(t, s.p)
				c := e.open(t, proxy, "")
				if len(dialled) > 0 {
					t.Error("it was dialled before the client spoke")
				}
				c.Close()
				tc := s.mustSpeak(t, proxy, s.trusting("http/1.1"))
				if ca && len(dialled) > 0 {
					t.Error("it was dialled before a request")
				}
				if body := askTLS(t, tc, "/x"); !strings.Contains(body, "/x") {
					t.Errorf("got %q", body)
				}
				receive(t, dialled)
			}
		}
	})
}

// Inside TLS, too, what is dialled late and only relayed is dialled with TLS.
func TestR63_DialLateInsideTLS(t *testing.T) {
	t.Parallel()
	eachEntry(t, func(t *testing.T, e entry) {
		s := newServedSite(t, e, echoTLS)
		s.p.Hooks = []mitm.Hook{onDestination(func(d *mitm.Destination) { d.DialLate = true })}
		c := s.mustSpeak(t, start(t, s.p), s.trusting("other"))
		io.WriteString(c, "\x00\x01binary")
		want(t, newPeer(t, c).read(8), "\x00\x01binary")
	})
}

// Tunnel dials at once, whatever else is said: the client is to know how that went.
func TestR63_TunnelDialsAtOnce(t *testing.T) {
	t.Parallel()
	p := &mitm.Proxy{
		Dial:      func(context.Context, string, string) (net.Conn, error) { return nil, errUnreachable },
		Transport: roundTripper(func(*http.Request) (*http.Response, error) { return nil, errUnreachable }),
		Hooks: []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			c.Destination.DialLate = true
			return mitm.Tunnel, nil
		})},
	}
	c := dial(t, start(t, p))
	c.send("CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n")
	c.wantStatus(502)
}

// Protocols are what a client may negotiate, and what it may speak without.
func TestR63_Protocols(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		allowed, offered []string
		negotiated       string
	}{
		{nil, []string{"h2", "http/1.1"}, "h2"},
		{[]string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1"},
		{[]string{"h2"}, []string{"http/1.1", "h2"}, "h2"},
		{[]string{"http/1.1"}, []string{"h2"}, ""},
		{[]string{}, []string{"h2", "http/1.1"}, ""},
	} {
		t.Run(fmt.Sprint(test.allowed, test.offered), func(t *testing.T) {
			for _, how := range []func(d *mitm.Destination){
				func(*mitm.Destination) {},
				func(d *mitm.Destination) { d.DialLate = true },
				func(d *mitm.Destination) { d.Handler = http.HandlerFunc(describe) },
			} {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newRawSite(t, e, "")
					s.serveHandler("site.test", &tls.Config{
						Certificates: []tls.Certificate{s.root.leaf("site.test", newKey(t), nil)}, NextProtos: []string{"h2", "http/1.1"},
					}, http.HandlerFunc(describe))
					s.addrs[transparentAddr.Addr().String()] = s.addrs["site.test"]
					s.p.Hooks = []mitm.Hook{onDestination(func(d *mitm.Destination) { d.Protocols = test.allowed; how(d) })}
					c := s.mustSpeak(t, start(t, s.p), s.trusting(test.offered...))
					want(t, c.ConnectionState().NegotiatedProtocol, test.negotiated)
				})
			}
		})
	}
}

// HTTP of a version that is not allowed is refused, however it begins.
func TestR63_ProtocolsRefused(t *testing.T) {
	t.Parallel()
	const request = "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n"
	for _, hooks := range [][]mitm.Hook{nil, {noChange()}} {
		for allowed, begun := range map[string]string{"http/1.1": h2Preface, "h2": request} {
			eachEntry(t, func(t *testing.T, e entry) {
				done, flows := doneHook()
				s := newSite(t, e)
				s.p.Hooks = append(append([]mitm.Hook{done}, hooks...), onDestination(func(d *mitm.Destination) { d.Protocols = []string{allowed} }))
				proxy := start(t, s.p)
				e.open(t, proxy, begun).wantStatus(505)
				if f := nextFlow(t, flows); f.Err == nil {
					t.Error("nothing is said in the flow")
				}
				tc := s.mustSpeak(t, proxy, s.trusting()) // without ALPN
				io.WriteString(tc, begun)
				newPeer(t, tc).wantStatus(505)
			})
		}
	}
}

// A request that is far from done does not keep a Handler's exchange from ending.
func TestR63_HandlerAnswersEarly(t *testing.T) {
	t.Parallel()
	p := &mitm.Proxy{Dial: noDial(t), Hooks: []mitm.Hook{onDestination(func(d *mitm.Destination) {
		d.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			w.(http.Flusher).Flush()
			io.Copy(io.Discard, req.Body) // as long as somebody sends
		})
	})}}
	c := dial(t, start(t, p))
	c.send("POST http://site.test/ HTTP/1.1\r\nHost: site.test\r\nContent-Length: 1000\r\n\r\nbegin")
	want(t, c.head()[:12], "HTTP/1.1 403")
	c.send(strings.Repeat("x", 995))
	if _, err := c.rest(); err != nil {
		t.Error(err)
	}
}
