package mitm_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// What no rule demands is not changed: the order, spelling, spacing and duplicates of
// fields, the path and query, and the content.

// oddFields is what clients may send and servers may look at.
const oddFields = "x-LAST: z\r\n" +
	"Accept:*/*\r\n" +
	"ACCEPT:   text/html , */*;q=0.1  \r\n" +
	"Cookie: a=1; b=2\r\n" +
	"x-empty:\r\n" +
	"X-Empty: \r\n" +
	"cookie: c=3\r\n" +
	"user-agent:\tcurl/0 (\xc3\xbc)\r\n" +
	"Accept-Encoding: gzip, br\r\n" +
	"If-None-Match: W/\"x\"\r\n" +
	"Cookie: a=1; b=2\r\n" +
	"Via: 1.0 other\r\n" +
	"Content-Type: text/plain;charset=\"utf-8\"\r\n" +
	"x_under.score~: 1\r\n" +
	"Authorization: Basic  YTpi\r\n" +
	"Forwarded: for=_x\r\n" +
	"Accept: */*\r\n"

const oddPath = "/%7ea//b/../%2E?q=%20+%zz&&a=1;b"

// oddPost is a POST request for target with odd fields around the Host field.
func oddPost(target, host string) string {
	return "POST " + target + " HTTP/1.1\r\nx-first: 1\r\nhOsT: " + host + "\r\n" + oddFields +
		"content-LENGTH: 7\r\nx-behind: 1\r\n\r\n\x1f\x8b\x08\x00\r\n\xff"
}

func TestFidelity_Request(t *testing.T) {
	requestTable(t, [][2]string{{oddPost("http://ORIGIN"+oddPath, "ORIGIN"), oddPost(oddPath, "ORIGIN")}})
}

// With what concerns the hop between the lines, only that is taken out.
func TestFidelity_HopByHopBetween(t *testing.T) {
	sent := oddPost("http://ORIGIN"+oddPath, "other.test")
	hops := []string{"Connection: x-hop, close\r\n", "Proxy-Connection: keep-alive\r\n", "X-HOP: 1\r\n", "Proxy-Authorization: Basic YTpi\r\n", "Keep-Alive: 5\r\n"}
	for i, after := range []string{"x-first: 1\r\n", "x-empty:\r\n", "cookie: c=3\r\n", "Accept-Encoding: gzip, br\r\n", "x-behind: 1\r\n"} {
		if strings.Count(sent, after) != 1 {
			t.Fatalf("%q is not there once", after)
		}
		sent = strings.Replace(sent, after, after+hops[i], 1)
	}
	requestTable(t, [][2]string{{sent, oddPost(oddPath, "ORIGIN")}})
}

// In a reverse proxy that keeps it, the Host field is as untouched as the others.
func TestFidelity_ReverseKeepHost(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		want := oddPost(oddPath, " public.test:8080\t")
		addr, received := exact(t, want)
		mode := reverseTo(addr).(mitm.Reverse)
		mode.KeepHost = true
		p.Mode = mode
		c := dial(t, start(t, p))
		c.send(want)
		c.wantStatus(200)
		if got := <-received; got != want {
			t.Errorf("got %q\nwant %q", got, want)
		}
	})
}

func TestFidelity_Chunked(t *testing.T) {
	fields := "x-LAST: z\r\n" + oddFields + "transfer-ENCODING: chunked\r\nTRAILER: x-end\r\na: b\r\n"
	content := "3\r\na\r\n\r\nA\r\n0123456789\r\n0\r\nx-END:  1 \r\nx-end:2\r\nX-other: \xc3\xbc\r\n\r\n"
	want := strings.Replace(content, "A\r\n0", "a\r\n0", 1)
	requestTable(t, [][2]string{{post(fields, content), posted(fields, want)}})
}

// changing is a proxy with a hook that changes the request.
func changing(change func(req *http.Request)) *mitm.Proxy {
	return &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		change(req)
		return nil, nil
	})}}
}

// Where a hook changes one thing, only that is different.
func TestFidelity_HookChangesOneThing(t *testing.T) {
	want := oddPost(oddPath, "ORIGIN")
	for name, tt := range map[string]struct {
		change   func(req *http.Request)
		old, new string
	}{
		"value":     {func(req *http.Request) { req.Header.Set("X-Last", "changed") }, "x-LAST: z\r\n", "x-LAST: changed\r\n"},
		"empty":     {func(req *http.Request) { req.Header.Set("User-Agent", "") }, "user-agent:\tcurl/0 (\xc3\xbc)\r\n", "user-agent: \r\n"},
		"removed":   {func(req *http.Request) { req.Header.Del("Via") }, "Via: 1.0 other\r\n", ""},
		"added":     {func(req *http.Request) { req.Header.Add("X-New", "1") }, "x-behind: 1\r\n", "x-behind: 1\r\nX-New: 1\r\n"},
		"duplicate": {func(req *http.Request) { req.Header["Cookie"][1] = "c=4" }, "cookie: c=3\r\n", "cookie: c=4\r\n"},
		"another":   {func(req *http.Request) { req.Header.Add("Accept", "x/y") }, "x-behind: 1\r\n", "x-behind: 1\r\nAccept: x/y\r\n"},
		"method":    {func(req *http.Request) { req.Method = "PUT" }, "POST ", "PUT "},
		"host":      {func(req *http.Request) { req.Host = "new.test" }, "hOsT: ORIGIN\r\n", "hOsT: new.test\r\n"},
		"query":     {func(req *http.Request) { req.URL.Path, req.URL.RawPath, req.URL.RawQuery = "/p", "", "q=%zz" }, oddPath, "/p?q=%zz"},
		"content": {func(req *http.Request) { req.Body = io.NopCloser(strings.NewReader("four")) },
			"content-LENGTH: 7\r\nx-behind: 1\r\n\r\n\x1f\x8b\x08\x00\r\n\xff", "content-LENGTH: 4\r\nx-behind: 1\r\n\r\nfour"},
		"nothing": {func(req *http.Request) { req.Header.Set("X-Last", "z"); req.Header = req.Header.Clone() }, "", ""},
		"read":    {func(req *http.Request) { readAndPutBack(req) }, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.old != "" && strings.Count(want, tt.old) != 1 {
				t.Fatalf("%q is not there once", tt.old)
			}
			changed := strings.Replace(want, tt.old, tt.new, 1)
			wantForwarded(t, changing(tt.change), oddPost("http://ORIGIN"+oddPath, "ORIGIN"), changed)
		})
	}
}

// readAndPutBack is what hooks do that look at the content.
func readAndPutBack(req *http.Request) {
	b, err := io.ReadAll(req.Body)
	if err == nil {
		req.Body = io.NopCloser(strings.NewReader(string(b)))
	}
}

// A hook may read a target that no URL can hold, and leaves it as it is.
func TestFidelity_HookSeesTarget(t *testing.T) {
	for path, want := range map[string]string{"/%zz?%": "/%zz", "//h/p": "//h/p", "/a%2Fb?": "/a/b", "/%7e": "/~"} {
		seen := make(chan string, 1)
		p := changing(func(req *http.Request) { seen <- req.URL.Path })
		wantForwarded(t, p, "GET http://ORIGIN"+path+" HTTP/1.1\r\nHost: x\r\n\r\n", "GET "+path+" HTTP/1.1\r\nHost: ORIGIN\r\n\r\n")
		if got := <-seen; got != want {
			t.Errorf("%s: URL.Path is %q, want %q", path, got, want)
		}
	}
}

// Hooks see no field that concerns the hop, and what they put in of that kind is not sent.
func TestFidelity_HopByHopIsNotForHooks(t *testing.T) {
	seen := make(chan http.Header, 1)
	p := changing(func(req *http.Request) {
		seen <- req.Header.Clone()
		for _, name := range []string{"Keep-Alive", "Proxy-Connection", "Http2-Settings"} {
			req.Header.Set(name, "x")
		}
		req.Header.Set("Connection", "a")
		req.Header.Set("Transfer-Encoding", "gzip")
		req.Header.Set("Content-Length", "99")
	})
	wantForwarded(t, p, "POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nConnection: x, TE\r\nTE: gzip\r\nX: 1\r\n"+
		"Keep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: y\r\nUpgrade: h2c\r\nContent-Length: 2\r\nB: c\r\n\r\nab",
		"POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 2\r\nB: c\r\n\r\nab")
	header := <-seen
	delete(header, "Content-Length")
	if len(header) != 1 || header.Get("B") != "c" {
		t.Errorf("the hook saw %q", header)
	}
}

// A hook can't smuggle: what would change the meaning of the message is not sent.
func TestFidelity_HookInjection(t *testing.T) {
	for name, change := range map[string]func(req *http.Request){
		"CRLF in value":   func(req *http.Request) { req.Header.Set("A", "b\r\nC: d") },
		"LF in value":     func(req *http.Request) { req.Header.Set("A", "b\nC: d") },
		"NUL in value":    func(req *http.Request) { req.Header.Set("A", "b\x00") },
		"name no token":   func(req *http.Request) { req.Header["A B"] = []string{"c"} },
		"empty name":      func(req *http.Request) { req.Header[""] = []string{"c"} },
		"CRLF in name":    func(req *http.Request) { req.Header["A: b\r\nC"] = []string{"d"} },
		"method no token": func(req *http.Request) { req.Method = "GET /x HTTP/1.1\r\nA:" },
		"space in method": func(req *http.Request) { req.Method = "G ET" },
		"CONNECT":         func(req *http.Request) { req.Method = "CONNECT" },
		"bad host":        func(req *http.Request) { req.Host = "a\r\nB: c" },
		"space in query":  func(req *http.Request) { req.URL.RawQuery = "a b" },
		"CRLF in query":   func(req *http.Request) { req.URL.RawQuery = "a HTTP/1.1\r\nB: c" },
		"opaque":          func(req *http.Request) { req.URL.Opaque = "//h/x y" },
		"no host":         func(req *http.Request) { req.URL.Host = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := changing(change)
			p.Dial = noWay(t)
			c := dial(t, start(t, p))
			for range 2 { // the request itself was fine, so the connection goes on
				c.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n")
				c.wantStatus(502)
			}
		})
	}
}
