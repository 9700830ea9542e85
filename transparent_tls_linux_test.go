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
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// secureSite is an https origin in the server's namespace.
type secureSite struct {
	addr string            // host:port
	host string            // as a URL names it without a port
	cert *x509.Certificate // what it shows
	asks chan string       // what it was asked
}

// secureWeb answers https requests at server n with what it knows of them. Its certificate
// is for names and for its address, unless change spoils it.
func (l *lab) secureWeb(t *testing.T, i *issuer, ip family, n int, change func(c *x509.Certificate), names ...string) *secureSite {
	t.Helper()
	addr := ip.server(n, 443)
	cert := i.leaf("", newKey(t), func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = names, []net.IP{net.ParseIP(fmt.Sprintf(ip.servers, n))}
		if change != nil {
			change(c)
		}
	})
	site := &secureSite{addr, strings.TrimSuffix(addr, ":443"), cert.Leaf, make(chan string, 1024)}
	s := httptest.NewUnstartedServer(http.HandlerFunc(site.answer))
	s.Listener.Close()
	s.Listener = l.listen(t, addr)
	s.TLS, s.EnableHTTP2 = &tls.Config{Certificates: []tls.Certificate{cert}}, true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return site
}

func (s *secureSite) answer(w http.ResponseWriter, req *http.Request) {
	client, _, _ := net.SplitHostPort(req.RemoteAddr)
	local := req.Context().Value(http.LocalAddrContextKey)
	s.asks <- req.Method + " " + req.URL.String()
	fmt.Fprintf(w, "%s for %s, name %q, at %v from %s", req.Proto, req.Host, req.TLS.ServerName, local, client)
}

// untouched fails the test if a request came.
func (s *secureSite) untouched(t *testing.T) {
	t.Helper()
	if len(s.asks) > 0 {
		t.Errorf("%s was asked %q", s.addr, <-s.asks)
	}
}

// secure returns an https client that trusts roots. It connects from n to addr, whatever a
// URL says. local is the address to connect from, "" for any.
func (n *namespace) secure(c secureClient, local, addr string, roots *x509.CertPool) (*http.Client, *http.Transport) {
	client := c.trusting(roots)
	transport := client.Transport.(*http.Transport)
	transport.DialContext = func(context.Context, string, string) (net.Conn, error) { return n.tryDial(local, addr) }
	return client, transport
}

// secureLabs is what the tests have in common: a CA for the proxy, and one for origins.
func secureLabs(t *testing.T) (l *lab, root *issuer, ca *mitm.CA, trusted *x509.CertPool) {
	l, root, ca = newLab(t), newIssuer(t, "root"), newCA(t)
	return l, root, ca, poolOf(ca.Certificate())
}

// opening makes p open TLS, and returns its flows.
func opening(p *mitm.Proxy, ca *mitm.CA, root *issuer) (flows chan *mitm.Flow) {
	done, flows := doneHook()
	p.CA, p.OriginTLS = ca, &tls.Config{RootCAs: root.pool()}
	p.Hooks = append(p.Hooks, done)
	return flows
}

// TLS is opened whether the client asks for a name or not. Then the certificate is for the
// address. The origin's own names are in it either way.
func TestInsideIntercept(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	for _, w := range []way{redirect, dnat, tproxy, local} {
		client, from := l.client, func(ip family) string { return ip.wan }
		if w.name == local.name {
			client = nil
		}
		eachFamily(t, w, func(t *testing.T, ip family) {
			site := l.secureWeb(t, root, ip, 1, nil, "site.test", "*.more.test")
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				hooked := len(p.Hooks) > 0
				flows := opening(p, ca, root)
				l.start(t, p, w)
				eachSecureClient(t, func(t *testing.T, c secureClient) {
					for host, name := range map[string]string{"site.test": "site.test", site.host: ""} {
						browser, _ := client.secure(c, "", site.addr, trusted)
						res, err := browser.Get("https://" + host + "/x?y=%2f")
						says := fmt.Sprintf("%s for %s, name %q, at %s from %s", c.protocol, host, name, site.addr, from(ip))
						want(t, content(t, res, err), says)
						want(t, res.Proto, c.protocol)
						want(t, await(t, site.asks), "GET /x?y=%2f")
						wantValidFor(t, res.TLS.PeerCertificates[0], "site.test", "a.more.test", site.host)
						f := nextFlow(t, flows)
						want(t, f.URL, "https://"+site.host+"/x?y=%2f")
						wantOpened(t, f, site, name)
						if hooked && (f.Request.URL.Host != site.host || f.Request.TLS.ServerName != name || f.Response.TLS == nil) {
							t.Errorf("hooks saw the request %+v", f.Request)
						}
					}
				})
			})
		})
	}
}

func wantValidFor(t *testing.T, leaf *x509.Certificate, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
}

func wantOpened(t *testing.T, f *mitm.Flow, site *secureSite, name string) {
	t.Helper()
	if f.Err != nil || f.Tunnel || f.Status != 200 {
		t.Errorf("flow: tunnel %v, status %d, %v", f.Tunnel, f.Status, f.Err)
	}
	if f.Conn.ServerName != name || f.Conn.Destination.Addr != site.addr || f.Conn.ClientHello == nil {
		t.Errorf("connection to %s, name %q", f.Conn.Destination.Addr, f.Conn.ServerName)
	}
}

// Whatever name a client asks for, in TLS or inside, it gets where it is connected to. If that
// has not got the name, the client is told so.
func TestInsideDestinationTLS(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		site := l.secureWeb(t, root, ip, 1, nil, "site.test", "shared.test")
		other := l.secureWeb(t, root, ip, 2, nil, "other.test", "shared.test")
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			hooked := len(p.Hooks) > 0
			flows := opening(p, ca, root)
			l.start(t, p, w)
			eachSecureClient(t, func(t *testing.T, c secureClient) {
				for _, test := range []struct {
					name, host string // of TLS, and inside
					status     int
				}{
					{"site.test", "other.test", 200},
					{"shared.test", "shared.test", 200},
					{"site.test", other.host, 200},
					{"", "other.test", 200},
					{"other.test", "other.test", 502},
					{"other.test", "site.test", 502},
					{"nowhere.invalid", "site.test", 502},
				} {
					t.Run(test.name+" "+test.host, func(t *testing.T) {
						client, transport := l.client.secure(c, "", site.addr, trusted)
						transport.TLSClientConfig.ServerName = test.name
						if test.name == "" {
							transport.TLSClientConfig.ServerName = site.host
						}
						res, err := client.Get("https://" + test.host + "/")
						body := content(t, res, err)
						if res.StatusCode != test.status {
							t.Errorf("%s: %q", res.Status, body)
						}
						flow := nextFlow(t, flows)
						want(t, flow.Conn.Destination.Addr, site.addr)
						if test.status == 502 {
							if !strings.HasPrefix(body, "tls "+site.addr+": ") || !strings.Contains(body, "valid for site.test, shared.test, not "+test.name) {
								t.Errorf("the client is told %q", body)
							}
							wantTLSError(t, flow, site.addr)
							return
						}
						want(t, body, fmt.Sprintf("%s for %s, name %q, at %s from %s", c.protocol, test.host, test.name, site.addr, ip.wan))
						await(t, site.asks)
					})
				}
			})
			t.Run("raw", func(t *testing.T) { l.rawForms(t, site, other, trusted, hooked) })
		})
		site.untouched(t)
		other.untouched(t)
	})
}

// rawForms sends requests inside TLS whose target names another origin. The site is no proxy, and answers a
// CONNECT with content: where hooks see HTTP that makes no tunnel.
func (l *lab) rawForms(t *testing.T, site, other *secureSite, trusted *x509.CertPool, hooked bool) {
	for request, status := range map[string]int{
		"GET https://" + other.host + "/":  200,
		"GET https://other.test:444/":      200,
		"GET http://" + other.host + "/":   200,
		"CONNECT " + other.addr:            map[bool]int{false: 200, true: 502}[hooked],
		"GET //" + other.host + "/":        200,
		"OPTIONS *":                        200,
		"GET /http://" + other.host + "/x": 200,
	} {
		t.Run(request, func(t *testing.T) {
			c := newPeer(t, tls.Client(l.client.dial(t, "", site.addr).Conn, &tls.Config{ServerName: "site.test", RootCAs: trusted}))
			c.send(request + " HTTP/1.1\r\nHost: " + other.host + "\r\n\r\n")
			c.wantStatus(status)
			if !strings.HasPrefix(request, "OPTIONS") { // net/http answers that itself
				await(t, site.asks)
			}
			c.Close()
		})
	}
}

// What is wrong with an origin is said inside TLS, and it is not asked.
func TestInsideBadOrigin(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		expired := l.secureWeb(t, root, ip, 1, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, "site.test")
		stranger := l.secureWeb(t, newIssuer(t, "other"), ip, 2, nil, "site.test")
		another := l.secureWeb(t, root, ip, 3, func(c *x509.Certificate) { c.IPAddresses = nil }, "else.test")
		elsewhere := l.secureWeb(t, root, ip, 4, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} })
		nobody := &secureSite{addr: ip.server(5, 443), host: strings.TrimSuffix(ip.server(5, 443), ":443")}
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			flows := opening(p, ca, root)
			l.start(t, p, w)
			eachSecureClient(t, func(t *testing.T, c secureClient) {
				for site, says := range map[*secureSite][3]string{ // the step, and why: with a name, without one
					expired:   {"tls", "certificate has expired", "certificate has expired"},
					stranger:  {"tls", "signed by unknown authority", "signed by unknown authority"},
					another:   {"tls", "valid for else.test, not site.test", "doesn't contain any IP SANs"},
					elsewhere: {"tls", "not valid for any names", "valid for 192.0.2.1, not "},
					nobody:    {"dial", "connection refused", "connection refused"},
				} {
					for i, host := range []string{"site.test", site.host} {
						client, _ := l.client.secure(c, "", site.addr, trusted)
						res, err := client.Get("https://" + host + "/secret")
						body := content(t, res, err)
						prefix := says[0] + " " + site.addr + ": "
						if res.StatusCode != 502 || !strings.HasPrefix(body, prefix) || !strings.Contains(body, says[1+i]) {
							t.Errorf("%s: %q, want %q", res.Status, body, says[1+i])
						}
						wantValidFor(t, res.TLS.PeerCertificates[0], host)
						f := nextFlow(t, flows)
						if e, ok := errors.AsType[*mitm.OpError](f.Err); !ok || e.Op != says[0] || e.Addr != site.addr || f.Status != 502 {
							t.Errorf("flow: status %d, %v", f.Status, f.Err)
						}
					}
				}
			})
		})
		for _, site := range []*secureSite{expired, stranger, another, elsewhere} {
			site.untouched(t)
		}
	})
}

// The origin sees each client's own address inside TLS too: connections of one are not used
// for another.
func TestInsideSpoofTLS(t *testing.T) {
	l, root, ca, trusted := secureLabs(t)
	l.client.run(t, "addr add 10.77.1.3/24 dev eth0\naddr add fd77:1::3/64 dev eth0 nodad\n", "ip", "-batch", "-")
	for _, w := range []way{spoofing(redirect), spoofing(dnat), spoofing(tproxy)} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			site := l.secureWeb(t, root, ip, 1, nil, "site.test")
			second := strings.TrimSuffix(ip.client, "2") + "3"
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				opening(p, ca, root)
				l.start(t, p, w)
				eachSecureClient(t, func(t *testing.T, c secureClient) {
					for _, host := range []string{"site.test", site.host} {
						for _, from := range []string{ip.client, second, ip.client, second} {
							client, transport := l.client.secure(c, net.JoinHostPort(from, "0"), site.addr, trusted)
							for range 2 {
								res, err := client.Get("https://" + host + "/")
								if body := content(t, res, err); !strings.HasSuffix(body, " at "+site.addr+" from "+from) {
									t.Errorf("%s from %s: got %q", host, from, body)
								}
								await(t, site.asks)
							}
							transport.CloseIdleConnections()
						}
					}
				})
			})
		})
	}
}
