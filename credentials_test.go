package mitm_test

import (
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// Credentials in Proxy-Authorization are for the proxy that a client names a destination to. What comes
// on a connection that has a destination of its own is for whoever is there.

const forProxy = "Proxy-Authorization: Basic eDp5"

// credentialsOf are the values of Proxy-Authorization in a message head.
func credentialsOf(head string) string {
	return strings.Join(fieldsOf(head)["proxy-authorization"], "|")
}

// watching is p with a hook that sends the credentials that it sees to the returned channel, if p has
// hooks at all.
func watching(p *mitm.Proxy) (seen chan string) {
	seen = make(chan string, 8)
	if p.Hooks != nil {
		p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			seen <- strings.Join(req.Header["Proxy-Authorization"], "|")
			return nil, nil
		}))
	}
	return seen
}

// wantCredentials fails the test unless an origin got want, and a hook saw the same, if there is one.
func wantCredentials(t *testing.T, head string, seen chan string, want string) {
	t.Helper()
	if got := credentialsOf(head); got != want {
		t.Errorf("the origin got %q, want %q", got, want)
	}
	for len(seen) > 0 {
		if got := <-seen; got != want {
			t.Errorf("the hook saw %q, want %q", got, want)
		}
	}
}

// A proxy that is named takes them, whether it asks for any or not.
func TestR71_Consumed(t *testing.T) {
	for name, mode := range map[string]mitm.Mode{
		"open":   mitm.Explicit{},
		"closed": mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"x": "y"})},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				addr, heads := answering(t, ok200)
				seen := watching(p)
				p.Mode = mode
				c := dial(t, start(t, p))
				c.send(headTo(addr, "GET", "/", forProxy))
				c.wantStatus(200)
				wantCredentials(t, <-heads, seen, "")
			})
		})
	}
}

// They pass where the connection has a destination of its own, in the order and the number in which
// they came.
func TestR71_Tunnels(t *testing.T) {
	addr, heads := answering(t, ok200)
	request := "GET / HTTP/1.1\r\nHost: h\r\n" + forProxy + "\r\nA: b\r\nproxy-authorization:  Other x\r\n\r\n"
	for name, test := range map[string]struct {
		mode mitm.Mode
		open func(t *testing.T, proxy string) *peer
	}{
		"transparent": {mitm.Transparent{Lookup: lookup(addr)}, func(t *testing.T, proxy string) *peer { return dial(t, proxy) }},
		"reverse":     {reverseTo(addr), func(t *testing.T, proxy string) *peer { return dial(t, proxy) }},
		"SOCKS":       {nil, func(t *testing.T, proxy string) *peer { return socksTo(t, proxy, addr, "") }},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				seen := watching(p)
				p.Mode = test.mode
				c := test.open(t, start(t, p))
				c.send(request)
				c.wantStatus(200)
				head := <-heads
				if !strings.Contains(head, forProxy+"\r\nA: b\r\nproxy-authorization:  Other x\r\n") {
					t.Errorf("the origin got %q", head)
				}
				wantCredentials(t, head, seen, "Basic eDp5|Other x")
			})
		})
	}
}

// Inside TLS that is terminated they are end-to-end, also if the CONNECT was authenticated.
func TestR71_Connect(t *testing.T) {
	for _, version := range []int{1, 2} {
		addr, roots, requests := reporting(t, version)
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			seen := watching(p)
			i := intercept(t, p, addr, roots)
			want := func() {
				t.Helper()
				got := receive(t, requests)
				wantCredentials(t, "\r\nProxy-Authorization:"+valueOf(got.fields, "proxy-authorization")+"\r\n\r\n", seen, "Basic eDp5")
			}
			h2 := i.h2()
			h2.want(h2.get("proxy-authorization", "Basic eDp5"), "200")
			want()
			if version == 1 {
				c := newPeer(t, i.tls("http/1.1"))
				c.send("GET / HTTP/1.1\r\nHost: example.com\r\n" + forProxy + "\r\n\r\n")
				c.wantStatus(200)
				want()
			}
		})
	}
}

// What a client has identified itself with by SOCKS is not for others, what else it says is.
func TestR71_SOCKS(t *testing.T) {
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen := watching(p)
		p.Mode = mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"x": "y"})}
		c := dial(t, start(t, p))
		c.send("\x05\x01\x02\x01\x01x\x01y" + socksRequest(addr))
		c.read(len("\x05\x02\x01\x00" + socksReply(0)))
		c.send("GET / HTTP/1.1\r\nHost: h\r\n" + forProxy + "\r\nProxy-Authorization: Basic eDp6\r\n\r\n")
		c.wantStatus(200)
		wantCredentials(t, <-heads, seen, "Basic eDp6")
	})
}

// What a hook sets goes out, also if it is what the client had sent.
func TestR71_HookSets(t *testing.T) {
	for _, value := range []string{"Basic eDp5", "Bearer other"} {
		addr, heads := answering(t, ok200)
		p := changing(func(req *http.Request) { req.Header.Set("Proxy-Authorization", value) })
		proxy := start(t, p)
		for _, fields := range []string{forProxy, "A: b", "A: b\r\n" + forProxy + "\r\n" + forProxy} {
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/", fields))
			c.wantStatus(200)
			wantCredentials(t, <-heads, nil, value)
		}
	}
}

// To a client of HTTP/2, which names its destinations on a connection to the proxy, the same applies;
// and towards an origin.
func TestR71_HTTP2(t *testing.T) {
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen := watching(p)
		c := newH2Peer(t, startSecure(t, p, "h2")(), true)
		c.want(c.get(":scheme", "http", ":authority", addr, "proxy-authorization", "Basic eDp5"), "200")
		wantCredentials(t, <-heads, seen, "")
	})
	for _, version := range []int{1, 2} {
		addr, roots, requests := reporting(t, version)
		p := changing(func(req *http.Request) { req.Header.Set("Proxy-Authorization", "Bearer set") })
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get(), "200")
		if got := valueOf(receive(t, requests).fields, "proxy-authorization"); got != "Bearer set" {
			t.Errorf("the origin got %q", got)
		}
	}
}

// A Transport gets them where an origin would.
func TestR71_Transport(t *testing.T) {
	addr := origin(t, neverAsked)
	for request, want := range map[string]string{
		headTo("origin.test", "GET", "/", forProxy):                             "",
		"\x05\x01\x00" + socksRequest(addr) + headTo("h", "GET", "/", forProxy): "Basic eDp5",
	} {
		seen := make(chan string, 1)
		p := &mitm.Proxy{Transport: roundTripper(func(req *http.Request) (*http.Response, error) {
			seen <- req.Header.Get("Proxy-Authorization")
			return text(200, "ok"), nil
		})}
		dial(t, start(t, p)).send(request)
		if got := receive(t, seen); got != want {
			t.Errorf("%.20q: %q, want %q", request, got, want)
		}
	}
}

// An answer to TRACE has none of them, wherever they are for.
func TestR71_Trace(t *testing.T) {
	addr := origin(t, neverAsked)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = mitm.Transparent{Lookup: lookup(addr)}
		c := dial(t, start(t, p))
		c.send("TRACE /x HTTP/1.1\r\nHost: h\r\n" + forProxy + "\r\nMax-Forwards: 0\r\n\r\n")
		if res, body := c.response("TRACE"); res.StatusCode != 200 || strings.Contains(body, "eDp5") {
			t.Errorf("%s %q", res.Status, body)
		}
	})
}
