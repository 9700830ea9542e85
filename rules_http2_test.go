package mitm_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// A badRequest is one that is refused.
type badRequest struct {
	what string
	send func(c *h2peer) *h2stream
}

// refusedHeads sends requests with these fields added, or these pseudo-headers replaced.
func refusedHeads(t *testing.T, table [][]string) {
	t.Helper()
	var bad []badRequest
	for _, fields := range table {
		bad = append(bad, badRequest{fmt.Sprintf("%q", fields), func(c *h2peer) *h2stream { return c.begin(true, fields...) }})
	}
	refusedRequests(t, bad)
}

// refusedRequests fails the test unless each request is refused, by 400 or a reset, and no
// origin of either version gets one.
func refusedRequests(t *testing.T, table []badRequest) {
	t.Helper()
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		i := intercept(t, p, addr, roots)
		for _, bad := range table {
			c := i.h2()
			s := bad.send(c)
			c.until(s.over)
			if got := s.outcome(); got != "reset" && !strings.HasSuffix(got, "400") && c.goAway == nil {
				t.Errorf("%s: %s, want a reset or 400; %v", bad.what, got, c.gone)
			}
			c.nc.Close()
		}
		c := i.h2()
		c.want(c.get(":path", "/last"), "200")
		wantOnly(t, seen)
	})
}

// The announced length is that of the content, or the message is malformed.
func TestR52_ContentLength(t *testing.T) {
	post := func(content string, lengths ...string) badRequest {
		fields := []string{":method", "POST"}
		for _, length := range lengths {
			fields = append(fields, "content-length", length)
		}
		return badRequest{fmt.Sprintf("%q for %q", lengths, content), func(c *h2peer) *h2stream {
			s := c.begin(content == "", fields...)
			if content != "" {
				c.data(s.id, true, content)
			}
			return s
		}}
	}
	refusedRequests(t, []badRequest{
		post("", "5"), post("abc", "4"), post("abc", "2"), post("abc", "x"), post("abc", "+3"), post("abc", "-3"), post("abc", "3, 4"),
		post("abc", ""), post("abc", "0x3"), post("abc", "3 3"), post("abc", "99999999999999999999"), post("abc", "3", "4"), post("abc", "4", "3"),
		{"trailers before the end", func(c *h2peer) *h2stream {
			s := c.begin(false, ":method", "POST", "content-length", "5")
			c.data(s.id, false, "abc")
			c.headers(s.id, true, "x-trailer", "1")
			return s
		}},
	})
}

// DATA where none was announced goes nowhere, even if it comes when the request has gone.
func TestR52_SurplusData(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		i := intercept(t, p, addr, roots)
		const smuggled = "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n"
		for _, length := range []string{"0", "3"} {
			c := i.h2()
			s := c.begin(false, ":method", "POST", "content-length", length)
			if length == "3" {
				c.data(s.id, false, "abc")
			}
			c.data(s.id, true, smuggled)
			c.until(s.over)
			c.nc.Close()
		}
		c := i.h2()
		for _, path := range []string{"/a", "/b", "/last"} {
			c.want(c.get(":path", path), "200")
		}
		for got := receive(t, seen); got.path != "/last"; got = receive(t, seen) {
			if got.path == "/smuggled" || strings.Contains(got.content, "smuggled") {
				t.Errorf("the origin got %+v", got)
			}
		}
	})
}

// A response whose content has another length than announced does not look complete.
func TestR52_ResponseContentLength(t *testing.T) {
	for length, content := range map[string]string{"5": "abc", "4": "", "2": "abc"} {
		addr, roots := h2Origin(t, func(c *h2peer) {
			for s := c.accept(); s != nil; s = c.accept() {
				c.answer(s, content, "content-length", length)
			}
		})
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			c := intercept(t, p, addr, roots).h2()
			if s := c.wait(c.begin(true)); s.outcome() != "cut 200" && s.outcome() != "502" {
				t.Errorf("%q for %q: %s with %q", length, content, s.outcome(), s.body.String())
			}
		})
	}
}

// Trailers that were announced pass. (net/http keeps the others to itself.)
func TestR52_RequestTrailers(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(false, ":method", "POST", "trailer", "x-sum, x-two")
		c.data(s.id, false, "abc")
		c.headers(s.id, true, "x-sum", "1", "x-two", "2")
		c.want(s, "200")
		got := receive(t, seen)
		if got.content != "abc" || valueOf(got.trailer, "x-sum") != "1" || valueOf(got.trailer, "x-two") != "2" || len(got.trailer) > 2 {
			t.Errorf("the origin got %+v", got)
		}
	})
}

func TestR52_ResponseTrailers(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		for _, announced := range []string{"X-Sum", ""} {
			addr, roots := h1Origin(t, func(c *peer) {
				c.tryHead()
				c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: " + announced + "\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n")
				c.rest()
			})
			if version == 2 {
				addr, roots = h2Origin(t, func(c *h2peer) {
					s := c.accept()
					c.headers(s.id, false, ":status", "200", "trailer", announced)
					c.data(s.id, false, "abc")
					c.headers(s.id, true, "x-sum", "1")
					c.accept()
				})
			}
			s := intercept(t, &mitm.Proxy{Hooks: p.Hooks}, addr, roots).h2().get()
			if s.outcome() != "200" || s.body.String() != "abc" || valueOf(s.trailer, "x-sum") != "1" {
				t.Errorf("announced %q: %s %q, trailer %v", announced, s.outcome(), s.body.String(), s.trailer)
			}
		}
	})
}

// A trailer section has no pseudo-headers, and ends the stream.
func TestR52_BadTrailers(t *testing.T) {
	var table []badRequest
	for _, trailer := range [][]string{{":path", "/"}, {"x", "y", ":status", "200"}, {"X-Upper", "1"}, {"x", "a\r\nb: c"}} {
		table = append(table, badRequest{fmt.Sprintf("%q", trailer), func(c *h2peer) *h2stream {
			s := c.begin(false, ":method", "POST")
			c.data(s.id, false, "abc")
			c.headers(s.id, true, trailer...)
			return s
		}})
	}
	refusedRequests(t, append(table, badRequest{"DATA after them", func(c *h2peer) *h2stream {
		s := c.begin(false, ":method", "POST")
		c.data(s.id, false, "abc")
		c.headers(s.id, false, "x", "y")
		c.data(s.id, true, "def")
		return s
	}}))
}

// What is no field name or value in HTTP/2 goes no further, above all not into HTTP/1.
func TestR53_Fields(t *testing.T) {
	var table [][]string
	for _, name := range []string{"", "X-Upper", "x y", "x:y", " x", "x ", "x\ty", "x\r\ny", "x\ny", "x\x00", "x\x7f", "x\xc3\xbc", "x: y\r\nz", "transfer-encoding\r\nx"} {
		table = append(table, []string{name, "value"})
	}
	for _, value := range []string{"a\r\nb: c", "a\nb: c", "a\rb", "a\x00b", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n", "a\n"} {
		table = append(table, []string{"x", value}, []string{"cookie", value}, []string{"host", value}, []string{"content-type", value})
	}
	for _, value := range []string{" a", "a ", "\ta", "a\t", " "} {
		table = append(table, []string{"x", value}, []string{"cookie", value}, []string{"content-type", value})
	}
	refusedHeads(t, table)
}

// The same from an origin is a bad answer.
func TestR53_ResponseFields(t *testing.T) {
	for _, field := range [][]string{{"X-Upper", "1"}, {"x y", "1"}, {"x", "a\r\nb: c"}, {"x", "a\x00"}, {"", "1"}, {"x\r\ny", "1"}} {
		addr, roots := h2Origin(t, func(c *h2peer) {
			for s := c.accept(); s != nil; s = c.accept() {
				c.answer(s, "", field...)
			}
		})
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			c := intercept(t, p, addr, roots).h2()
			c.want(c.get(), "502")
		})
	}
}

func TestR54_ConnectionFields(t *testing.T) {
	refusedHeads(t, [][]string{
		{"connection", "close"}, {"connection", "x-a", "x-a", "1"}, {"keep-alive", "timeout=5"}, {"proxy-connection", "keep-alive"},
		{"transfer-encoding", "chunked"}, {":method", "POST", "transfer-encoding", "identity"}, {"upgrade", "websocket"},
		{"te", "gzip"}, {"te", "trailers, deflate"}, {"te", "trailers", "te", "gzip"},
	})
}

// TE: trailers is the one that is allowed, and gRPC servers look for it.
func TestR54_TETrailers(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get("te", "trailers"), "200")
		got := receive(t, seen)
		if te := valueOf(got.fields, "te"); te != "trailers" {
			t.Errorf("TE %q", te)
		}
		if connection := valueOf(got.fields, "connection"); version == 1 && !strings.EqualFold(connection, "te") {
			t.Errorf("Connection %q", connection) // RFC 9110, section 10.1.4
		}
	})
}

// Fields that concern the connection to the origin are not in the answer.
func TestR54_Responses(t *testing.T) {
	addr, roots := h1Origin(t, func(c *peer) {
		c.tryHead()
		c.send("HTTP/1.1 200 OK\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\n" +
			"Upgrade: h2c\r\nTransfer-Encoding: chunked\r\nX-End: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n")
		c.rest()
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := intercept(t, p, addr, roots).h2()
		s := c.get()
		c.want(s, "200")
		if valueOf(s.head, "x-end") != "1" || s.body.String() != "ok" {
			t.Errorf("got %v %q", s.head, s.body.String())
		}
		for _, name := range []string{"connection", "x-hop", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding"} {
			if value := valueOf(s.head, name); value != "" {
				t.Errorf("%s: %s", name, value)
			}
		}
	})
}

// Where an HTTP/2 origin sends such fields, the answer is without them, or refused.
func TestR54_ResponsesOfHTTP2(t *testing.T) {
	for _, field := range [][]string{{"connection", "close"}, {"transfer-encoding", "chunked"}, {"keep-alive", "5"}, {"upgrade", "h2c"}} {
		addr, roots := h2Origin(t, func(c *h2peer) {
			for s := c.accept(); s != nil; s = c.accept() {
				c.answer(s, "ok", field...)
			}
		})
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			c := intercept(t, p, addr, roots).h2()
			s := c.get()
			if s.outcome() != "502" && (s.outcome() != "200" || valueOf(s.head, field[0]) != "") {
				t.Errorf("%s with %v", s.outcome(), s.head)
			}
		})
	}
}

func TestR55_Cookies(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get("cookie", "a=1", "x", "y", "cookie", "b=2; c=3", "cookie", "d=4"), "200")
		const joined = "a=1; b=2; c=3; d=4"
		got := valueOf(receive(t, seen).fields, "cookie")
		if version == 2 {
			got = strings.ReplaceAll(got, "|", "; ") // crumbs may stay crumbs
		}
		if got != joined {
			t.Errorf("Cookie %q, want %q", got, joined)
		}
	})
}

func TestR56_PseudoHeaders(t *testing.T) {
	refusedHeads(t, [][]string{
		{":method", "-"}, {":scheme", "-"}, {":path", "-"}, {":path", ""}, {":method", ""}, {":scheme", ""},
		{":unknown", "x"}, {":status", "200"}, {":protocol", "websocket"}, {":Method", "GET"}, {":", "x"},
		{":method", "GE T"}, {":method", "GET / HTTP/1.1\r\nX:"}, {":method", "GET /smuggled HTTP/1.1"}, {":method", "G\x00T"}, {":method", "(GET)"},
		{":scheme", "ht tp"}, {":scheme", "https\r\nx: y"},
		{":path", "nothing"}, {":path", "/a b"}, {":path", "/a HTTP/1.1"}, {":path", "/\r\nx: y"}, {":path", "/a\tb"}, {":path", "/a\x00"},
		{":path", "/a#b"}, {":path", "*"}, {":path", "https://example.com/"}, {":path", "?q"}, {":path", "x.evil.test:80/"}, {":path", "x:y"}, {":path", ""},
		{":authority", "user@example.com"}, {":authority", "exa mple.com"}, {":authority", "example.com/x"}, {":authority", "example.com\r\nx: y"},
		{":authority", "example.com:port"}, {":authority", "example.com?x"}, {":authority", "example.com#x"},
		{":authority", "-", "host", "a.test", "host", "b.test"}, {":authority", "-", "host", "user@example.com"},
		{":method", "CONNECT"}, {":method", "CONNECT", ":scheme", "-"}, {":method", "CONNECT", ":path", "-"},
	})
}

// Each comes once, and before other fields.
func TestR56_OnceAndFirst(t *testing.T) {
	good := []string{":method", "GET", ":scheme", "https", ":authority", "example.com", ":path", "/"}
	var table []badRequest
	for at := 0; at < len(good); at += 2 {
		twice := append(good[:at:at], append([]string{good[at], good[at+1]}, good[at:]...)...)
		late := append(append(good[:at:at], good[at+2:]...), "x", "y", good[at], good[at+1])
		other := append(good[:len(good):len(good)], good[at], good[at+1]+"x")
		for _, fields := range [][]string{twice, late, other} {
			table = append(table, badRequest{fmt.Sprintf("%q", fields), func(c *h2peer) *h2stream { return c.raw(true, fields...) }})
		}
	}
	refusedRequests(t, table)
}

// One name goes on where :authority and Host are not the same, and it is that of :authority.
func TestR56_AuthorityAndHost(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		if len(p.Hooks) > 0 {
			p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				if req.Header["Host"] != nil {
					t.Errorf("a hook got both Host %q and %q", req.Host, req.Header["Host"])
				}
				return nil, nil
			}))
		}
		i := intercept(t, p, addr, roots)
		for _, test := range []struct {
			fields  []string
			host    string
			refused bool // is right, too
		}{
			{nil, "example.com", false},
			{[]string{"host", "example.com"}, "example.com", false},
			{[]string{":authority", "-", "host", "other.test"}, "other.test", false},
			{[]string{"host", "other.test"}, "example.com", true},
		} {
			c := i.h2()
			s := c.begin(true, test.fields...)
			c.until(s.over)
			if got := s.outcome(); got != "200" {
				if !test.refused || got != "400" && got != "reset" {
					t.Errorf("%q: %s", test.fields, got)
				}
				continue
			}
			if got := receive(t, seen); got.host != test.host {
				t.Errorf("%q: host %q, want %q", test.fields, got.host, test.host)
			}
		}
	})
}

// Whatever is allowed in a path, and in the name and value of a field, passes as it is.
func TestR56_Unchanged(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		for _, path := range []string{"/", "/%7ea//b/../%2E?q=%20+%zz&&a=1;b", "/?", "//x", "/\"<>\\^`{|}", "/a?b?c", "/" + strings.Repeat("x", 9000)} {
			c.want(c.get(":path", path), "200")
			if got := receive(t, seen); got.path != path {
				t.Errorf("path %q, want %q", got.path, path)
			}
		}
		c.want(c.get(":method", "OPTIONS", ":path", "*"), "200")
		if got := receive(t, seen); got.method+got.path != "OPTIONS*" {
			t.Errorf("got %s %s", got.method, got.path)
		}
		odd := []string{"x_under.score~", "1", "x", "", "x-utf8", "\xc3\xbc \xff", "x-tab", "a\tb", "x", "2", "accept", "*/*;q=0.1 , a"}
		c.want(c.get(odd...), "200")
		got := receive(t, seen)
		for n := 0; n < len(odd); n += 2 {
			if value := valueOf(got.fields, odd[n]); value != odd[n+1] && value != "|2" {
				t.Errorf("%s: %q, want %q", odd[n], value, odd[n+1])
			}
		}
	})
}
