package mitm_test

import (
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/mitm"
)

// What a scripted origin does after a response that ends with one of these.
const (
	thenClose = "\x00close"
	thenReset = "\x00reset"
)

// scripted is an origin that answers the first request with the first response, and so
// on, whatever connections they come on. It reports each as "1 GET /", where 1 is the
// number of the connection, and the end of a connection as "1 end".
func scripted(t testing.TB, responses ...string) (addr string, seen chan string) {
	t.Helper()
	next := make(chan string, len(responses))
	for _, r := range responses {
		next <- r
	}
	close(next)
	seen = make(chan string, 256)
	var conns atomic.Int32
	addr = origin(t, func(c *peer) {
		n := conns.Add(1)
		defer func() { c.Close(); seen <- fmt.Sprint(n, " end") }()
		for {
			head, err := c.tryHead()
			if err != nil || c.skipContent(head) != nil {
				return
			}
			line, _, _ := strings.Cut(head, " HTTP/1.1\r\n")
			seen <- fmt.Sprintf("%d %s", n, line)
			text, ending, _ := strings.Cut(<-next, "\x00")
			c.send(text)
			if ending == "reset" {
				c.Conn.(*net.TCPConn).SetLinger(0)
			}
			if ending != "" {
				return
			}
		}
	})
	return addr, seen
}

var contentLength = regexp.MustCompile(`\r\n(?i:content-length): (\d+)\r\n`)

// skipContent reads the content that a Content-Length announces.
func (p *peer) skipContent(head string) error {
	n := 0
	if m := contentLength.FindStringSubmatch(head); m != nil {
		fmt.Sscan(m[1], &n)
	}
	_, err := p.r.Discard(n)
	return err
}

// headTo is the head of a request to addr. Each field is a line.
func headTo(addr, method, path string, fields ...string) string {
	lines := append([]string{method + " http://" + addr + path + " HTTP/1.1", "Host: " + addr}, fields...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// wantSeen fails the test unless those are the next reports of a scripted origin.
func wantSeen(t *testing.T, seen chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		if got := <-seen; got != w {
			t.Errorf("origin saw %q, want %q", got, w)
		}
	}
}

// fieldsOf returns the fields of a message head by name, in lower case.
func fieldsOf(head string) map[string][]string {
	fields := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSuffix(head, "\r\n\r\n"), "\r\n")[1:] {
		name, value, _ := strings.Cut(line, ":")
		name = strings.ToLower(name)
		fields[name] = append(fields[name], strings.Trim(value, " \t"))
	}
	return fields
}

func TestR10_StatusLine(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for line, want := range map[string]string{
			"HTTP/1.1 200 OK":           "HTTP/1.1 200 OK",
			"HTTP/1.1 200":              "HTTP/1.1 200 ",
			"HTTP/1.1 200 ":             "HTTP/1.1 200 ",
			"HTTP/1.0 200 OK":           "HTTP/1.1 200 OK",
			"HTTP/1.7 200 OK":           "HTTP/1.1 200 OK",
			"HTTP/1.1 201 a\tb  c \xfc": "HTTP/1.1 201 a\tb  c \xfc",
			"HTTP/1.1 299 204":          "HTTP/1.1 299 204",
			"HTTP/1.1 999 x":            "HTTP/1.1 999 x",
			"HTTP/1.1 20 OK":            "",
			"HTTP/1.1 2000 OK":          "",
			"HTTP/1.1 +20 OK":           "",
			"HTTP/1.1 2x0 OK":           "",
			"HTTP/1.1 099 OK":           "",
			"HTTP/1.1 200OK":            "",
			"HTTP/1.1  200 OK":          "",
			"HTTP/1.1\t200 OK":          "",
			"HTTP/1.1 200 a\x00b":       "",
			"HTTP/1.1 200 a\rb":         "",
			"HTTP/1.x 200 OK":           "",
			"HTTP/2.0 200 OK":           "",
			"HTTP/2 200 OK":             "",
			"http/1.1 200 OK":           "",
			"ICY 200 OK":                "",
			"SSH-2.0-OpenSSH_9.9":       "",
			" HTTP/1.1 200 OK":          "",
			"":                          "",
		} {
			addr, seen := scripted(t, line+"\r\nContent-Length: 2\r\n\r\nok")
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			got, _, _ := strings.Cut(c.head(), "\r\n")
			if want == "" {
				want = "HTTP/1.1 502 Bad Gateway"
				wantSeen(t, seen, "1 GET /", "1 end")
			}
			if got != want {
				t.Errorf("%q became %q, want %q", line, got, want)
			}
		}
	})
}

// Whatever ends before a whole head, or is too large for one, is no response.
func TestR10_NoHead(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.MaxHeaderBytes, p.MaxHeaderFields = 4<<10, 16
		proxy := start(t, p)
		for name, response := range map[string]string{
			"nothing":      thenClose,
			"reset":        thenReset,
			"half a line":  "HTTP/1.1 20" + thenClose,
			"half a head":  "HTTP/1.1 200 OK\r\nA: b\r\n" + thenClose,
			"large head":   "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 4<<10) + "\r\n\r\n",
			"endless head": "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 8<<10),
			"many fields":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 17) + "\r\n",
			"no name":      "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
			"no colon":     "HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n",
			"control":      "HTTP/1.1 200 OK\r\nA: b\x01\r\n\r\n",
			"bare CR":      "HTTP/1.1 200 OK\r\nA: b\rContent-Length: 0\r\n\r\n",
		} {
			addr, seen := scripted(t, response)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			res, body := c.response("GET")
			if res.StatusCode != 502 || !strings.Contains(body, "read response "+addr) {
				t.Errorf("%s: %s %q", name, res.Status, body)
			}
			wantSeen(t, seen, "1 GET /", "1 end")
		}
	})
}

func TestR12_ResponseSpaceBeforeColon(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := scripted(t, "HTTP/1.1 200 OK\r\nX-A : 1\r\nContent-Length\t : 2\r\nX-B  :a : b\r\nX-C: d\r\n\r\nok")
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		head := c.head()
		if c.read(2) != "ok" || regexp.MustCompile(`\n[^:]*[ \t]:`).MatchString(strings.SplitN(head, "\r\n", 2)[1]) {
			t.Errorf("got %q", head)
		}
		fields := fieldsOf(head)
		for name, want := range map[string]string{"x-a": "1", "content-length": "2", "x-b": "a : b", "x-c": "d"} {
			if got := fields[name]; len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

func TestR13_ResponseFold(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := scripted(t, "HTTP/1.1 200 OK\r\nX-A: one\r\n two:\r\n\tthree\r\nX-B:\r\n b\r\nX-C: c\r\n \r\nX-D: x\n y\r\nContent-Length: 2\r\n\r\nok")
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		head := c.head()
		if c.read(2) != "ok" || strings.Contains(head, "\n ") || strings.Contains(head, "\n\t") {
			t.Errorf("got %q", head)
		}
		fields := fieldsOf(head)
		for name, want := range map[string]string{"x-a": "one two: three", "x-b": "b", "x-c": "c", "x-d": "x y"} {
			if got := fields[name]; len(got) != 1 || strings.Join(strings.Fields(got[0]), " ") != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	})
}

// A fold that would hide part of a name, or the start line, is not repaired.
func TestR13_ResponseFoldInName(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, fields := range []string{" X-A: 1\r\n", "\tX-A: 1\r\n", "Content-Length\r\n : 2\r\n", "X-A\r\n : 2\r\n"} {
			addr, _ := scripted(t, "HTTP/1.1 200 OK\r\n"+fields+"\r\n"+thenClose)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			c.wantStatus(502)
		}
	})
}

func TestR16_ChunkedForHTTP10Client(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\n wo\r\n0\r\nX-T: 1\r\n\r\n")
		c := dial(t, start(t, p))
		c.send("GET http://" + addr + "/ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		head := c.head()
		if strings.Contains(head, "chunked") || !strings.Contains(head, "\r\nConnection: close\r\n") {
			t.Errorf("head %q", head)
		}
		if got, err := c.rest(); got != "hello wo" || err != nil {
			t.Errorf("content %q, %v", got, err)
		}
	})
}

// A coding that is not chunked, once and last, can be read in more than one way.
func TestR16_ResponseCoding(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, fields := range []string{
			"Transfer-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, gzip",
			"Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
			"Transfer-Encoding: xchunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked;q=1",
			"Transfer-Encoding: identity", "Transfer-Encoding:", "Transfer-Encoding: chunked\r\n\tx",
		} {
			addr, seen := scripted(t, "HTTP/1.1 200 OK\r\n"+fields+"\r\n\r\n2\r\nok\r\n0\r\n\r\n")
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			c.wantStatus(http.StatusBadGateway)
			wantSeen(t, seen, "1 GET /", "1 end")
		}
	})
}

// Framing that can be read in one way only passes, but nothing behind it is believed.
func TestR17_ResponseBothLengthAndTE(t *testing.T) {
	const content = "5\r\nhello\r\n0\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, head := range []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nContent-Length: 5\r\n\r\n",
			"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
		} {
			addr, seen := scripted(t, head+content, ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			got := c.head()
			if strings.Contains(got, "Content-Length") || !strings.Contains(strings.ToLower(got), "\r\ntransfer-encoding: chunked\r\n") {
				t.Errorf("%q became %q", head, got)
			}
			if got := c.read(len(content)); got != content {
				t.Errorf("content %q", got)
			}
			wantSeen(t, seen, "1 GET /a", "1 end")
			c.send(headTo(addr, "GET", "/b"))
			c.wantStatus(200)
			wantSeen(t, seen, "2 GET /b")
		}
	})
}

func TestR18_ResponseBadLength(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, value := range []string{
			"", "x", "+2", "-2", "2x", "0x2", "2 2", "2.0", "2, 3", "2,x", "2\r\nContent-Length: 3",
			"\r\nContent-Length: 2", "9223372036854775808", "18446744073709551618",
		} {
			addr, seen := scripted(t, "HTTP/1.1 200 OK\r\nContent-Length: "+value+"\r\n\r\nok")
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			c.wantStatus(http.StatusBadGateway)
			wantSeen(t, seen, "1 GET /", "1 end")
		}
	})
}

func TestR18_ResponseEqualLengths(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, seen := scripted(t,
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
			"HTTP/1.1 200 OK\r\nContent-Length: 2, 02\r\n\r\nok")
		c := dial(t, start(t, p))
		for range 2 {
			c.send(headTo(addr, "GET", "/"))
			got := fieldsOf(c.head())["content-length"]
			if c.read(2) != "ok" || len(got) != 1 || got[0] != "2" {
				t.Errorf("Content-Length %q", got)
			}
			wantSeen(t, seen, "1 GET /")
		}
	})
}
