package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/mitm"
)

// Rules about the request line, the Host field and where a request goes. In the requests of
// these tables ORIGIN stands for the address of an origin server.

// lastAnswer is a response after which the connection to the origin is of no use.
const lastAnswer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

// wantForwarded sends a request and fails the test unless exactly want reaches the origin.
func wantForwarded(t *testing.T, p *mitm.Proxy, sent, want string) {
	t.Helper()
	addr, received := exact(t, want)
	at := strings.NewReplacer("ORIGIN", addr)
	c := dial(t, start(t, p))
	c.send(at.Replace(sent))
	method, _, _ := strings.Cut(strings.TrimLeft(sent, "\r\n"), " ")
	if res, body := c.response(method); res.StatusCode != 200 {
		t.Errorf("answered %s: %s", res.Status, body)
	}
	if got := <-received; got != at.Replace(want) {
		t.Errorf("sent %q\n got %q\nwant %q", at.Replace(sent), got, at.Replace(want))
	}
}

// exact is an origin that answers when it has read as much as want; all that it ever gets
// on its first connection goes to the returned channel.
func exact(t *testing.T, want string) (addr string, received chan string) {
	received = make(chan string, 4)
	addr = origin(t, func(c *peer) {
		b := make([]byte, len(strings.ReplaceAll(want, "ORIGIN", c.LocalAddr().String())))
		n, _ := io.ReadFull(c.r, b)
		c.send(lastAnswer)
		more, _ := c.rest()
		received <- string(b[:n]) + more
	})
	return addr, received
}

// wantRefused fails the test unless the request gets the status, a reason and the end of
// the connection: nothing is dialled, and a request behind it is not served.
func wantRefused(t *testing.T, p *mitm.Proxy, sent string, status int) {
	t.Helper()
	p.Dial = func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("%q: dialled %s", sent, addr)
		return nil, errors.New("nothing is to be dialled")
	}
	c := dial(t, start(t, p))
	c.send(sent + "GET http://next.test/ HTTP/1.1\r\nHost: next.test\r\n\r\n")
	res, body := c.response("GET")
	if res.StatusCode != status || body == "" || !res.Close {
		t.Errorf("%q: answered %s, close %v: %q; want %d", sent, res.Status, res.Close, body, status)
	}
	c.closed()
}

// requestTable runs requests that are forwarded as the second string of each pair.
func requestTable(t *testing.T, table [][2]string) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, row := range table {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				wantForwarded(t, &mitm.Proxy{Hooks: p.Hooks, Via: p.Via}, row[0], row[1])
			})
		}
	})
}

// refusedTable runs requests that are refused with status. What is refused never comes to
// the hooks, so one engine is enough.
func refusedTable(t *testing.T, status int, table []string) {
	for _, sent := range table {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			wantRefused(t, &mitm.Proxy{}, sent, status)
		})
	}
}

func TestR01_LineEnds(t *testing.T) {
	want := "GET /x HTTP/1.1\r\nHost: ORIGIN\r\nA: b\r\n\r\n"
	requestTable(t, [][2]string{
		{"\r\nGET http://ORIGIN/x HTTP/1.1\r\nHost: ORIGIN\r\nA: b\r\n\r\n", want},
		{"\n\r\n\nGET http://ORIGIN/x HTTP/1.1\r\nHost: ORIGIN\r\nA: b\r\n\r\n", want},
		{"GET http://ORIGIN/x HTTP/1.1\nHost: ORIGIN\nA: b\n\n", want},
		{"GET http://ORIGIN/x HTTP/1.1\r\nHost: ORIGIN\nA: b\r\n\n", want},
	})
}

func TestR01_Refused(t *testing.T) {
	refusedTable(t, 400, []string{
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nA: b\rC: d\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\rA: b\r\n\r\n",
		"GET http://o.test/\rx HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\r\nHost: o.test\r\n\r\n",
		"\rGET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\n Host: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\n\tA: b\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nno colon\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n: no name\r\n\r\n",
		"\x16\x03\x01\r\n\r\n",
		"GET\r\n\r\n",
		strings.Repeat("\r\n", 100) + "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
	})
}

func TestR02_OwnVersion(t *testing.T) {
	requestTable(t, [][2]string{
		{"GET http://ORIGIN/ HTTP/1.0\r\nHost: ORIGIN\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET http://ORIGIN/ HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET http://ORIGIN/ HTTP/1.7\r\nHost: ORIGIN\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
	})
}

func TestR02_UnknownMajorVersion(t *testing.T) {
	refusedTable(t, 505, []string{
		"GET http://o.test/ HTTP/2.0\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/0.9\r\nHost: o.test\r\n\r\n",
	})
	refusedTable(t, 400, []string{
		"GET http://o.test/\r\n\r\n",
		"GET http://o.test/ HTTP/11.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ http/1.1\r\nHost: o.test\r\n\r\n",
	})
}

func TestR03_RequestLine(t *testing.T) {
	refusedTable(t, 400, []string{
		"GET  http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/  HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1 \r\nHost: o.test\r\n\r\n",
		" GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET\thttp://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/a b HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/a\tb HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"G@T http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/#x HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: o.test\r\n\r\n", // names no destination, and Host does not count
	})
}

func TestR03_LongTarget(t *testing.T) {
	path := "/" + strings.Repeat("x", 7999)
	requestTable(t, [][2]string{{
		"GET http://ORIGIN" + path + " HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
		"GET " + path + " HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
	}})
}

// A request line may be as long as the limit says, its line end not counted.
func TestR03_LineLimit(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.MaxRequestLine = 100
		addr, _ := answering(t, ok200)
		proxy := start(t, p)
		for _, end := range []string{"\r\n", "\n"} {
			for length, status := range map[int]int{99: 200, 100: 200, 101: 414, 102: 414, 5000: 414} {
				line := "GET http://" + addr + "/ HTTP/1.1"
				line = strings.Replace(line, "/ H", "/"+strings.Repeat("x", length-len(line))+" H", 1)
				c := dial(t, proxy)
				c.send(line + end + "Host: " + addr + end + end)
				if res, _ := c.response("GET"); res.StatusCode != status {
					t.Errorf("line of %d bytes and %q: %s, want %d", len(line), end, res.Status, status)
				}
			}
		}
	})
}

// Without an end of the line nobody waits for more than the limit.
func TestR03_EndlessLine(t *testing.T) {
	c := dial(t, start(t, &mitm.Proxy{MaxRequestLine: 1000}))
	c.send("GET http://o.test/" + strings.Repeat("x", 1100))
	c.wantStatus(414)
	c.closed()
}

func TestR03_Host(t *testing.T) {
	refusedTable(t, 400, []string{
		"GET http://o.test/ HTTP/1.1\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nhost: other.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.0\r\nHost: o.test\r\nHost: o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: a, b\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: u@o.test\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test/x\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test:port\r\n\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test:0\r\n\r\n",
	})
}

func TestR04_OriginForm(t *testing.T) {
	requestTable(t, [][2]string{
		{"GET http://ORIGIN/a/../b?c HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", "GET /a/../b?c HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET http://ORIGIN HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET http://ORIGIN?q HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", "GET /?q HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
	})
}

func TestR05_TargetBeatsHost(t *testing.T) {
	requestTable(t, [][2]string{
		{"GET http://ORIGIN/ HTTP/1.1\r\nA: 1\r\nhOST: other.test\r\nB: 2\r\n\r\n", "GET / HTTP/1.1\r\nA: 1\r\nhOST: ORIGIN\r\nB: 2\r\n\r\n"},
		{"GET http://ORIGIN/ HTTP/1.1\r\nHost:\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET http://ORIGIN/ HTTP/1.0\r\nA: 1\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\nA: 1\r\n\r\n"},
	})
}

func TestR06_AuthorityForm(t *testing.T) {
	refusedTable(t, 400, []string{
		"CONNECT o.test HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT :443 HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test: HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test:0 HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test:65536 HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test:443/x HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT u@o.test:443 HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT http://o.test:443/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT /x HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT * HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nContent-Length: 2\r\n\r\nab",
		"GET o.test:80 HTTP/1.1\r\nHost: o.test\r\n\r\n",
	})
}

func TestR07_OptionsAsterisk(t *testing.T) {
	requestTable(t, [][2]string{
		{"OPTIONS http://ORIGIN HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"OPTIONS http://ORIGIN/ HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"OPTIONS http://ORIGIN?q HTTP/1.1\r\nHost: x\r\n\r\n", "OPTIONS /?q HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
	})
	refusedTable(t, 400, []string{
		"GET * HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"OPTIONS ** HTTP/1.1\r\nHost: o.test\r\n\r\n",
	})
}

func TestR07_ReverseAsterisk(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, heads := answering(t, ok200)
		p.Mode = reverseTo(addr)
		c := dial(t, start(t, p))
		c.send("OPTIONS * HTTP/1.1\r\nHost: public.test\r\n\r\n")
		if got, want := <-heads, "OPTIONS * HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		c.wantStatus(200)
	})
}

func TestR08_SchemeAndUserinfo(t *testing.T) {
	requestTable(t, [][2]string{
		{"GET HTTP://ORIGIN/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
		{"GET hTtP://ORIGIN/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n"},
	})
	refusedTable(t, 400, []string{
		"GET http://user:secret@o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
		"GET http://@o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n",
	})
	refusedTable(t, 501, []string{"GET ftp://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n"})
}

// The case of a host does not tell destinations apart, but its spelling is passed on.
func TestR08_HostCase(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, heads := answering(t, ok200)
		var dialled []string
		p.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
			dialled = append(dialled, to)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
		c := dial(t, start(t, p))
		for _, host := range []string{"o.test", "O.Test"} {
			c.send("GET http://" + host + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
			if got, want := <-heads, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			c.wantStatus(200)
		}
		if len(dialled) != 1 || dialled[0] != "o.test:80" {
			t.Errorf("dialled %q, want o.test:80 once", dialled)
		}
	})
}

func TestR09_HTTPS(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Host+r.RequestURI)
		}))
		t.Cleanup(server.Close)
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		p.OriginTLS = &tls.Config{RootCAs: roots}
		addr := server.Listener.Addr().String()
		c := dial(t, start(t, p))
		c.send("GET https://" + addr + "/x?y HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, body := c.response("GET"); body != addr+"/x?y" {
			t.Errorf("got %q", body)
		}
	})
}

// No byte of a request for an https target reaches an origin that speaks no TLS.
func TestR09_NotInTheClear(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		received := make(chan string, 1)
		addr := origin(t, func(c *peer) {
			first, err := c.r.Peek(1)
			if err == nil && first[0] == 0x16 { // a handshake record
				c.send("HTTP/1.1 400 Bad Request\r\n\r\n")
			}
			all, _ := c.r.Peek(c.r.Buffered())
			received <- string(all)
		})
		c := dial(t, start(t, p))
		c.send("GET https://" + addr + "/secret HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.wantStatus(502)
		if got := <-received; !strings.HasPrefix(got, "\x16") || strings.Contains(got, "secret") {
			t.Errorf("the origin got %q", got)
		}
	})
}

func TestR35_Methods(t *testing.T) {
	for _, method := range []string{"get", "Get", "PROPFIND", "M-SEARCH", "!#$%&'*+-.^_`|~", "PATCH", "connect"} {
		t.Run(method, func(t *testing.T) {
			requestTable(t, [][2]string{{
				method + " http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
				method + " / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
			}})
		})
	}
}
