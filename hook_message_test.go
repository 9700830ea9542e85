package mitm_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"example.com/mitm"
)

// asked is a request through a proxy with an OnRequest hook, and what the origin got.
func asked(t *testing.T, request string, hook func(req *http.Request)) (head string, res *http.Response) {
	t.Helper()
	addr, heads := answering(t, ok200)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) { hook(req); return nil, nil }),
	}}))
	c.send(strings.ReplaceAll(request, "ADDR", addr))
	res, _ = c.response("GET")
	select {
	case head = <-heads:
	default:
	}
	return strings.ReplaceAll(head, addr, "ADDR"), res
}

func TestHookChangesRequest(t *testing.T) {
	const request = "GET http://ADDR/a%2fb?q=%zz;& HTTP/1.1\r\nhOST: x\r\nB: 1\r\na:  2\r\nb: 3\r\n\r\n"
	const target, fields = "/a%2fb?q=%zz;&", "hOST: ADDR\r\nB: 1\r\na:  2\r\nb: 3\r\n\r\n"
	for _, tt := range []struct {
		name string
		hook func(req *http.Request)
		want string
	}{
		{"nothing", func(*http.Request) {}, "GET " + target + " HTTP/1.1\r\n" + fields},
		{"method", func(r *http.Request) { r.Method = "PURGE" }, "PURGE " + target + " HTTP/1.1\r\n" + fields},
		{"path", func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/c d", "" }, "GET /c%20d?q=%zz;& HTTP/1.1\r\n" + fields},
		{"query", func(r *http.Request) { r.URL.RawQuery = "x=1" }, "GET /a%2fb?x=1 HTTP/1.1\r\n" + fields},
		{"no query", func(r *http.Request) { r.URL.RawQuery = "" }, "GET /a%2fb HTTP/1.1\r\n" + fields},
		{"new URL", func(r *http.Request) { r.URL = &url.URL{Scheme: "http", Host: r.URL.Host} }, "GET / HTTP/1.1\r\n" + fields},
		{"host", func(r *http.Request) { r.Host = "new.test" }, "GET " + target + " HTTP/1.1\r\nhOST: new.test\r\nB: 1\r\na:  2\r\nb: 3\r\n\r\n"},
		{"set", func(r *http.Request) { r.Header.Set("B", "9") }, "GET " + target + " HTTP/1.1\r\nhOST: ADDR\r\nB: 9\r\na:  2\r\n\r\n"},
		{"add", func(r *http.Request) { r.Header.Add("b", "4"); r.Header.Add("a0", "") },
			"GET " + target + " HTTP/1.1\r\nhOST: ADDR\r\nB: 1\r\na:  2\r\nb: 3\r\nA0: \r\nB: 4\r\n\r\n"},
		{"remove", func(r *http.Request) { r.Header.Del("b") }, "GET " + target + " HTTP/1.1\r\nhOST: ADDR\r\na:  2\r\n\r\n"},
		{"own case", func(r *http.Request) { r.Header["x-low"] = []string{"1"} },
			"GET " + target + " HTTP/1.1\r\nhOST: ADDR\r\nB: 1\r\na:  2\r\nb: 3\r\nx-low: 1\r\n\r\n"},
		{"order", func(r *http.Request) { setNames(r, "A", "b", "b", "Host", "none") },
			"GET " + target + " HTTP/1.1\r\nA: 2\r\nb: 1\r\nb: 3\r\nHost: ADDR\r\n\r\n"},
		{"order of some", func(r *http.Request) { setNames(r, "a") },
			"GET " + target + " HTTP/1.1\r\nHost: ADDR\r\na: 2\r\nB: 1\r\nB: 3\r\n\r\n"},
		{"framing", func(r *http.Request) {
			r.Header.Set("Content-Length", "5")
			r.Header.Set("Transfer-Encoding", "chunked")
		},
			"GET " + target + " HTTP/1.1\r\n" + fields},
		{"host field", func(r *http.Request) { r.Header.Set("Host", "evil.test") }, "GET " + target + " HTTP/1.1\r\n" + fields},
		{"hop by hop", func(r *http.Request) { r.Header.Set("Connection", "A, close"); r.Header.Set("Keep-Alive", "1") },
			"GET " + target + " HTTP/1.1\r\nhOST: ADDR\r\nB: 1\r\nb: 3\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, _ := asked(t, request, tt.hook); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func setNames(r *http.Request, names ...string) {
	mitm.FlowFromContext(r.Context()).RequestFields = names
}

// The place of the field that frames the content can be changed too.
func TestHookOrdersFraming(t *testing.T) {
	for _, tt := range []struct{ framing, want string }{
		{"Content-Length: 0", "CONTENT-LENGTH: 0\r\nHost: ADDR\r\na: 1\r\n\r\n"},
		{"Transfer-Encoding: chunked", "Host: ADDR\r\na: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
	} {
		got, _ := asked(t, "POST http://ADDR/ HTTP/1.1\r\nHost: x\r\na: 1\r\n"+tt.framing+"\r\n\r\n0\r\n\r\n", func(r *http.Request) {
			setNames(r, "CONTENT-LENGTH", "Host", "a", "Transfer-Encoding")
		})
		if want := "POST / HTTP/1.1\r\n" + tt.want; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// What can't be sent, or would be read as something else, is an error before anything
// goes out (RFC 9110, section 5.5).
func TestR14_HookInjects(t *testing.T) {
	const evil = "a\r\nEvil: 1"
	for name, hook := range map[string]func(r *http.Request){
		"value":         func(r *http.Request) { r.Header.Set("A", evil) },
		"LF":            func(r *http.Request) { r.Header.Set("A", "a\nb") },
		"NUL":           func(r *http.Request) { r.Header.Set("A", "a\x00b") },
		"name":          func(r *http.Request) { r.Header[evil] = []string{"1"} },
		"empty name":    func(r *http.Request) { r.Header[""] = []string{"1"} },
		"spaced name":   func(r *http.Request) { r.Header["A "] = []string{"1"} },
		"listed name":   func(r *http.Request) { r.Header[evil] = []string{"1"}; setNames(r, evil) },
		"method":        func(r *http.Request) { r.Method = "GET /evil HTTP/1.1\r\nX:" },
		"CONNECT":       func(r *http.Request) { r.Method = "CONNECT" },
		"no method":     func(r *http.Request) { r.Method = "" },
		"host":          func(r *http.Request) { r.Host = "h\r\nEvil: 1" },
		"host path":     func(r *http.Request) { r.Host = "h/evil" },
		"query":         func(r *http.Request) { r.URL.RawQuery = "a HTTP/1.1\r\nEvil: 1" },
		"query space":   func(r *http.Request) { r.URL.RawQuery = "a b" },
		"opaque":        func(r *http.Request) { r.URL.Opaque = "//h/a b" },
		"no URL":        func(r *http.Request) { r.URL = nil },
		"no host":       func(r *http.Request) { r.URL.Host = "" },
		"scheme":        func(r *http.Request) { r.URL.Scheme = "ftp" },
		"no header":     func(r *http.Request) { r.Header = nil; r.Host = " " },
		"relative path": func(r *http.Request) { r.URL.Path = "evil" },
	} {
		t.Run(name, func(t *testing.T) {
			if head, res := asked(t, "GET http://ADDR/ HTTP/1.1\r\nHost: x\r\n\r\n", hook); head != "" || res.StatusCode != 502 {
				t.Errorf("origin got %q, client got %s", head, res.Status)
			}
		})
	}
}

func TestR14_HookInjectsResponse(t *testing.T) {
	const evil = "a\r\nEvil: 1"
	for name, hook := range map[string]func(r *http.Response){
		"value":      func(r *http.Response) { r.Header.Set("A", evil) },
		"name":       func(r *http.Response) { r.Header[evil] = []string{"1"} },
		"reason":     func(r *http.Response) { r.Status = "200 OK\r\nEvil: 1" },
		"status":     func(r *http.Response) { r.StatusCode = 99 },
		"interim":    func(r *http.Response) { r.StatusCode = 103 },
		"zero":       func(r *http.Response) { r.StatusCode = 0 },
		"four":       func(r *http.Response) { r.StatusCode = 1000 },
		"switching":  func(r *http.Response) { r.StatusCode = 101 },
		"lying body": func(r *http.Response) { r.StatusCode = 101; r.Body = readWriter{} },
	} {
		t.Run(name, func(t *testing.T) {
			addr, _ := answering(t, ok200)
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error { hook(res); return nil })}}))
			for range 2 {
				c.send(getRequest(addr))
				if res, _ := c.response("GET"); res.StatusCode != 502 || res.Header.Get("Evil") != "" {
					t.Errorf("got %v", res)
				}
			}
		})
	}
	t.Run("trailer", func(t *testing.T) {
		addr, _ := answering(t, ok200)
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
			res.Trailer = http.Header{"A": {evil}, "B\r\nEvil": {"1"}, "Content-Length": {"9"}}
			return nil
		})}}))
		c.send(getRequest(addr))
		c.head()
		if got := c.read(12); got != "2\r\nok\r\n0\r\n\r\n" {
			t.Errorf("got %q", got)
		}
	})
}

type readWriter struct{ io.ReadWriteCloser }

func (readWriter) Close() error { return nil }

func TestHookChangesResponse(t *testing.T) {
	const fields = "dATE: Mon, 23 Nov 2026 00:00:00 GMT\r\nb: 1\r\nSet-Cookie: x\r\nB:  2\r\nset-cookie: y\r\nContent-Length: 2\r\n\r\n"
	addr, _ := answering(t, "HTTP/1.1 200 Fine\r\n"+fields+"ok")
	for _, tt := range []struct {
		name string
		hook func(res *http.Response)
		want string
	}{
		{"nothing", func(*http.Response) {}, "HTTP/1.1 200 Fine\r\n" + fields},
		{"code", func(r *http.Response) { r.StatusCode = 404 }, "HTTP/1.1 404 Not Found\r\n" + fields},
		{"reason", func(r *http.Response) { r.Status = "200 All good" }, "HTTP/1.1 200 All good\r\n" + fields},
		{"no reason", func(r *http.Response) { r.Status = "200" }, "HTTP/1.1 200 \r\n" + fields},
		{"unknown code", func(r *http.Response) { r.StatusCode = 799 }, "HTTP/1.1 799 \r\n" + fields},
		{"remove", func(r *http.Response) { r.Header.Del("Set-Cookie"); r.Header.Del("B") },
			"HTTP/1.1 200 Fine\r\ndATE: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n"},
		{"set", func(r *http.Response) { r.Header.Set("b", "3"); r.Header.Set("New", "4") },
			"HTTP/1.1 200 Fine\r\ndATE: Mon, 23 Nov 2026 00:00:00 GMT\r\nb: 3\r\nSet-Cookie: x\r\nset-cookie: y\r\nContent-Length: 2\r\nNew: 4\r\n\r\n"},
		{"order", func(r *http.Response) {
			mitm.FlowFromContext(r.Request.Context()).ResponseFields = []string{"Content-Length", "DATE", "Host"}
		}, "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nDATE: Mon, 23 Nov 2026 00:00:00 GMT\r\nB: 1\r\nB: 2\r\nSet-Cookie: x\r\nSet-Cookie: y\r\n\r\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error { tt.hook(res); return nil })}}))
			for range 2 {
				c.send(getRequest(addr))
				if got := c.head(); got != tt.want {
					t.Errorf("got  %q\nwant %q", got, tt.want)
				}
				c.read(2)
			}
		})
	}
}

// URL.Host is another destination, the Host field stays.
func TestHookRedirects(t *testing.T) {
	first, firstHeads := answering(t, ok200)
	second, secondHeads := answering(t, ok200)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path == "/second" {
				req.URL.Host = second
			}
			return nil, nil
		}),
	}}))
	for _, tt := range []struct {
		path  string
		heads chan string
	}{{"/first", firstHeads}, {"/second", secondHeads}, {"/first", firstHeads}} {
		c.send("GET http://" + first + tt.path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantStatus(200)
		if got, want := <-tt.heads, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", tt.path, first); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What hooks see is what the client sent, without what concerned the hop to the proxy.
func TestHookSees(t *testing.T) {
	var got string
	_, res := asked(t, "OPTIONS http://ADDR HTTP/1.1\r\nHost: x\r\nConnection: close, A\r\nA: 1\r\nB: 2\r\nb: 3\r\nProxy-Authorization: Basic eDp5\r\nTE: gzip\r\nKeep-Alive: 5\r\n\r\n",
		func(r *http.Request) {
			f := mitm.FlowFromContext(r.Context())
			same := r.Host == r.URL.Host && f.URL == "http://"+r.Host && f.Method == r.Method && r.RemoteAddr == f.Conn.RemoteAddr().String()
			got = fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Proto, " ", r.Header, " ", f.RequestFields, " ", r.ContentLength, " ", same)
		})
	const want = "OPTIONS * HTTP/1.1 map[B:[2 3]] [Host Connection A B b Proxy-Authorization TE Keep-Alive] 0 true"
	if got != want || res.StatusCode != 200 {
		t.Errorf("got %q, want %q", got, want)
	}
}
