package mitm_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// basic is a Proxy-Authorization field.
func basic(credentials string) string {
	return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credentials)) + "\r\n"
}

// users is an Authenticate that tells whom it was asked about.
func users(known ...string) (authenticate func(context.Context, string, string) error, asked chan string) {
	asked = make(chan string, 64)
	return func(_ context.Context, user, password string) error {
		asked <- user + "|" + password
		if slices.Contains(known, user+"|"+password) {
			return nil
		}
		return errors.New("unknown to the directory")
	}, asked
}

// wantChallenge reads a 407 and fails the test unless it says all that it has to.
func (p *peer) wantChallenge(method string, closing bool) {
	p.t.Helper()
	res, body := p.response(method)
	if res.StatusCode != 407 || res.Close != closing {
		p.t.Errorf("status %s, close %v, want 407 and %v", res.Status, res.Close, closing)
	}
	if got, want := fmt.Sprint(res.Header["Proxy-Authenticate"]), `[Basic realm="proxy", charset="UTF-8"]`; got != want {
		p.t.Errorf("Proxy-Authenticate is %s, want %s", got, want)
	}
	if method != "HEAD" && body != "no or wrong proxy credentials\n" {
		p.t.Errorf("the client was told %q", body)
	}
}

// Every request is asked about, and after a refusal the next one can do better.
func TestAuthEveryRequest(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		authenticate, asked := users("user|pass")
		p.Mode = mitm.Explicit{Authenticate: authenticate}
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := dial(t, start(t, p))
		refused := 0
		for _, request := range []struct{ method, fields, content string }{
			{"GET", "", ""},
			{"GET", basic("user:wrong"), ""},
			{"HEAD", "", ""},
			{"POST", "Content-Length: 5\r\n", "hello"},
			{"POST", basic("other:pass") + "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"},
			{"GET", basic("user:pass"), ""},
			{"GET", "", ""},
			{"GET", basic("user:pass"), ""},
		} {
			c.send(request.method + " http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n" + request.fields + "\r\n" + request.content)
			if request.fields != basic("user:pass") {
				refused++
				c.wantChallenge(request.method, false)
				if f := nextFlow(t, flows); f.Status != 407 || !errors.Is(f.Err, mitm.ErrCredentials) || f.Method != request.method {
					t.Errorf("flow: %s, status %d, %v", f.Method, f.Status, f.Err)
				}
				continue
			}
			c.wantStatus(200)
			nextFlow(t, flows)
			if got, want := <-heads, "GET / HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"; got != want {
				t.Errorf("the origin got %q, want %q", got, want)
			}
		}
		if len(heads) > 0 || refused != 6 || len(asked) != 4 { // none without credentials
			t.Errorf("%d requests too many reached the origin, %d were refused, %d asked about", len(heads), refused, len(asked))
		}
	})
}

func TestAuthCredentials(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	encoded := strings.TrimSuffix(strings.TrimPrefix(basic("user:pass"), "Proxy-Authorization: Basic "), "\r\n")
	for fields, want := range map[string]string{ // what Authenticate gets; "": it is not asked
		basic("user:pass"): "user|pass",
		"proxy-authorization: basic " + encoded + "\r\n":    "user|pass",
		"PROXY-AUTHORIZATION:BASIC   " + encoded + "  \r\n": "user|pass",
		basic("user:with:colon"):                            "user|with:colon",
		basic("jürgen:pässwörd"):                            "jürgen|pässwörd",
		basic("user:"):                                      "user|",
		basic(":pass"):                                      "|pass",
		basic(":"):                                          "|",
		basic("user: pass "):                                "user| pass ",
		"":                                                  "",
		basic(""):                                           "",
		basic("user"):                                       "",
		"Authorization: Basic " + encoded + "\r\n":               "",
		"Proxy-Authorization:\r\n":                               "",
		"Proxy-Authorization: Basic\r\n":                         "",
		"Proxy-Authorization: " + encoded + "\r\n":               "",
		"Proxy-Authorization: Basic" + encoded + "\r\n":          "",
		"Proxy-Authorization: Basic\t" + encoded + "\r\n":        "",
		"Proxy-Authorization: Bearer " + encoded + "\r\n":        "",
		"Proxy-Authorization: Digest username=\"user\"\r\n":      "",
		"Proxy-Authorization: Basic user:pass\r\n":               "",
		"Proxy-Authorization: Basic !!!!\r\n":                    "",
		"Proxy-Authorization: Basic dXNlcjpwYXNz=\r\n":           "",
		"Proxy-Authorization: Basic dXNlcjpw\r\n X\r\n":          "400",
		"Proxy-Authorization: Basic " + encoded + ", x\r\n":      "",
		"Proxy-Authorization: Basic Ojo_\r\n":                    "", // the alphabet of URLs
		"Proxy-Authorization: Basic dTpw\r\n" + basic("a:bc"):    "", // which of them?
		basic("user:pass") + basic("user:pass"):                  "",
		basic("user:pass") + "X: y\r\nproxy-authorization: \r\n": "",
		"Proxy-Authorization: Bearer t\r\n" + basic("user:pass"): "",
	} {
		t.Run("", func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				authenticate, asked := users(want)
				p.Mode = mitm.Explicit{Authenticate: authenticate}
				c := dial(t, start(t, p))
				c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n")
				got := ""
				switch res, _ := c.response("GET"); {
				case res.StatusCode == 200:
					<-heads
					got = <-asked
				case res.StatusCode != 407:
					got = fmt.Sprint(res.StatusCode)
				case len(asked) > 0:
					got = "refused " + <-asked
				}
				if got != want {
					t.Errorf("%q: got %q, want %q", fields, got, want)
				}
			})
		})
	}
}

// A refused CONNECT is the end: what follows it may be anything (RFC 9931).
func TestR39_AuthConnectRefused(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		authenticate, asked := users("user|pass")
		p.Mode, p.Dial = mitm.Explicit{Authenticate: authenticate}, noDial(t)
		proxy := start(t, p)
		for _, fields := range []string{"", basic("user:wrong")} {
			for _, next := range []string{"", "GET http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n"} {
				c := dial(t, proxy)
				c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: h\r\n" + fields + "\r\n" + next)
				c.wantChallenge("GET", true)
				if got, err := c.rest(); got != "" || err != nil {
					t.Errorf("after that: %q, %v", got, err)
				}
			}
		}
		for len(asked) > 0 {
			if got := <-asked; got != "user|wrong" {
				t.Errorf("asked about %s", got)
			}
		}
	})
	if len(heads) > 0 {
		t.Errorf("the origin got %q", <-heads)
	}
}

// Who has the tunnel is not asked again for what is inside.
func TestAuthOnce(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	intercept := mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return mitm.Intercept, nil })
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		authenticate, asked := users("user|pass")
		p.Mode = mitm.Explicit{Authenticate: authenticate}
		p.Hooks = append(p.Hooks, intercept)
		proxy := start(t, p)
		tunnel := dial(t, proxy)
		tunnel.send("CONNECT " + addr + " HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n")
		if got := tunnel.head(); got != established {
			t.Fatalf("CONNECT was answered with %q", got)
		}
		socks := dial(t, proxy)
		socks.send("\x05\x02\x00\x02\x01\x04user\x04pass" + socksRequest(addr))
		if got := socks.read(14); got != "\x05\x02\x01\x00"+socksReply(0) {
			t.Fatalf("SOCKS client was told %q", got)
		}
		for _, c := range []*peer{tunnel, socks} {
			for range 2 {
				c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				c.wantStatus(200)
			}
		}
		if len(asked) != 2 {
			t.Errorf("asked %d times", len(asked))
		}
	})
}

func TestR60_Password(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	authenticate, _ := users("user|with:colon", "jürgen|pässwörd", "user|", "|", strings.Repeat("l", 255)+"|"+strings.Repeat("p", 255))
	proxy := start(t, &mitm.Proxy{Mode: mitm.Explicit{Authenticate: authenticate}})
	attempt := func(user, password string) string {
		return "\x01" + string([]byte{byte(len(user))}) + user + string([]byte{byte(len(password))}) + password
	}
	for sent, want := range map[string]string{
		attempt("user", "with:colon"): "\x01\x00",
		attempt("jürgen", "pässwörd"): "\x01\x00",
		attempt("user", ""):           "\x01\x00",
		attempt("", ""):               "\x01\x00",
		attempt(strings.Repeat("l", 255), strings.Repeat("p", 255)): "\x01\x00",
		attempt("user", "with:colon "):                              "\x01\x01",
		attempt("user", "with:colo"):                                "\x01\x01",
		attempt("USER", "with:colon"):                               "\x01\x01",
		attempt("user", "with:colon\x00"):                           "\x01\x01",
		attempt("user:with", "colon"):                               "\x01\x01",
		"\x05" + attempt("user", "")[1:]:                            "\x01\x01", // the version of something else
		"\x00":                                                      "\x01\x01",
		"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50":                  "\x01\x01", // no negotiation at all
	} {
		c := dial(t, proxy)
		c.send("\x05\x02\x00\x02" + sent + socksRequest(addr) + "\x00early")
		if got := c.read(4); got != "\x05\x02"+want {
			t.Errorf("%q: told %q, want %q", sent, got, want)
		}
		if want == "\x01\x01" {
			if got, err := c.rest(); got != "" || err != nil {
				t.Errorf("%q: after the refusal %q, %v", sent, got, err)
			}
			continue
		}
		if got := c.read(16); got != socksReply(0)+"\x00early" {
			t.Errorf("%q: told %q", sent, got)
		}
	}
	for _, methods := range []string{"\x01\x00", "\x00", "\x02\x00\x01"} { // there is no other way in
		c := dial(t, proxy)
		c.send("\x05" + methods + socksRequest(addr))
		if got, err := c.rest(); got != "\x05\xff" || err != nil {
			t.Errorf("methods %q: told %q, %v", methods, got, err)
		}
	}
}

func TestPasswords(t *testing.T) {
	t.Parallel()
	known := map[string]string{"user": "pass", "jürgen": "pässwörd", "empty": "", "": "nobody"}
	authenticate := mitm.Passwords(known)
	known["user"], known["late"] = "changed", "x" // it has its own copy
	for _, test := range []struct {
		user, password string
		ok             bool
	}{
		{"user", "pass", true},
		{"jürgen", "pässwörd", true},
		{"empty", "", true},
		{"", "nobody", true},
		{"user", "changed", false},
		{"user", "", false},
		{"user", "pas", false},
		{"user", "pass\x00", false},
		{"user", "PASS", false},
		{"User", "pass", false},
		{"empty", "x", false},
		{"late", "x", false},
		{"unknown", "", false},
		{"unknown", "pass", false},
		{"", "", false},
	} {
		err := authenticate(t.Context(), test.user, test.password)
		if test.ok != (err == nil) || err != nil && err != mitm.ErrCredentials {
			t.Errorf("%s with %q: %v", test.user, test.password, err)
		}
	}
	if err := mitm.Passwords(nil)(t.Context(), "", ""); err != mitm.ErrCredentials {
		t.Errorf("no users: %v", err)
	}
}
