package mitm_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// What servers and clients in use do though they need not, and what they refuse though it is harmless.

// paddedChunks are "0123456789x", with blanks behind the sizes.
var paddedChunks = []string{
	"a  \r\n0123456789\r\n1\t\r\nx\r\n0 \r\n\r\n",
	"a     \r\n0123456789\r\n1     \r\nx\r\n0     \r\nX-Sum: 1\r\n\r\n",
	"a \t;ext\r\n0123456789\r\n1 \r\nx\r\n000 \t \r\n\r\n",
	"a;ext \r\n0123456789\r\n1 ; ext=\" \" \r\nx\r\n0 ;ext\r\n\r\n",
}

var cleanSize = regexp.MustCompile(`^[0-9a-f]+\r\n$`)

// chunks reads chunked content, the sizes of which have nothing behind them, without trailers.
func (p *peer) chunks() (content string) {
	p.t.Helper()
	for {
		line, err := p.r.ReadString('\n')
		if !cleanSize.MatchString(line) {
			p.t.Fatalf("chunk line %q, %v", line, err)
		}
		n := 0
		fmt.Sscanf(line, "%x", &n)
		if n == 0 {
			p.tryHead()
			return content
		}
		content += strings.TrimSuffix(p.read(n+2), "\r\n")
	}
}

// inPieces is an origin that answers each request so, a few bytes at a time.
func inPieces(t *testing.T, response string, piece int) (addr string) {
	return origin(t, func(c *peer) {
		for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
			for rest := response; rest != ""; rest = rest[min(piece, len(rest)):] {
				c.send(rest[:min(piece, len(rest))])
			}
		}
	})
}

// Blanks behind a chunk size are read in a response, however it comes, and not passed on.
func TestR19_PaddedSizes(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, chunks := range paddedChunks {
			for _, piece := range []int{1, 3, 1000} {
				addr := inPieces(t, head+chunks, piece)
				c := dial(t, proxy)
				for range 2 { // the end was found, so the connection goes on
					c.send(headTo(addr, "GET", "/"))
					if gotHead, got := c.head(), c.chunks(); gotHead != head || got != "0123456789x" {
						t.Errorf("%q became %q%q", chunks, gotHead, got)
					}
				}
			}
		}
	})
}

// For a client of HTTP/2, and in a response that a hook reads, they are no part of the content either.
func TestR19_PaddedSizesElsewhere(t *testing.T) {
	for _, chunks := range paddedChunks {
		addr, roots := h1Origin(t, func(c *peer) {
			for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
				c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
			}
		})
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Hooks = append(p.Hooks, mitm.OnResponse(func(res *http.Response) error {
				b, err := io.ReadAll(res.Body)
				res.Body = io.NopCloser(strings.NewReader(string(b)))
				return err
			}))
			c := intercept(t, p, addr, roots).h2()
			for range 2 {
				s := c.get()
				if c.want(s, "200"); s.body.String() != "0123456789x" {
					t.Errorf("%q became %q", chunks, s.body.String())
				}
			}
		})
	}
}

// What stands in front of a size, or inside it, is refused in a response too, and in a request whatever
// is not allowed.
func TestR19_PaddingElsewhere(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, size := range []string{" a", "\ta", "1 0", "a x", "a \x0b", "a \x00", " ", ""} {
			addr := inPieces(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+size+"\r\n0123456789\r\n0\r\n\r\n", 1000)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			if got, _ := c.rest(); strings.Contains(got, "0\r\n\r\n") {
				t.Errorf("%q became %q", size, got)
			}
		}
		for _, chunks := range []string{"a \r\n0123456789\r\n0\r\n\r\n", "a\r\n0123456789\r\n0 \r\n\r\n", "a\t\r\n0123456789\r\n0\r\n\r\n"} {
			wantNoEnd(t, &mitm.Proxy{Hooks: p.Hooks}, chunks, 400)
		}
	})
}

// A CONNECT says all in its target.
func TestR03_ConnectWithoutHost(t *testing.T) {
	for _, version := range []string{"1.0", "1.1"} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			addr := origin(t, func(c *peer) { io.Copy(c.Conn, c.r) })
			c := dial(t, start(t, p))
			c.send("CONNECT " + addr + " HTTP/" + version + "\r\n\r\n")
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
				t.Fatalf("HTTP/%s: %q", version, head)
			}
			c.send("ping")
			if got := c.read(4); got != "ping" {
				t.Errorf("HTTP/%s: %q", version, got)
			}
		})
	}
	refusedTable(t, 400, []string{
		"CONNECT o.test:443 HTTP/1.1\r\nHost: o.test\r\nHost: o.test\r\n\r\n",
		"CONNECT o.test:443 HTTP/1.1\r\nHost: a, b\r\n\r\n",
		"CONNECT o.test:443 HTTP/1.0\r\nHost: o.test/x\r\n\r\n",
	})
}

// trailerNames are Trailer fields, and what may leave of them.
var trailerNames = map[string]string{
	"Trailer: X-Sum,x-b\r\n":                       "Trailer: X-Sum,x-b\r\n",
	"trailer:  Digest\r\n":                         "trailer:  Digest\r\n",
	"Trailer: Content-Length\r\n":                  "",
	"TRAILER: X-Sum, content-length , x-B\r\n":     "TRAILER: X-Sum, x-B\r\n",
	"Trailer: Host,Transfer-Encoding, Trailer\r\n": "",
	"Trailer: Trailer\r\nTrailer: X-Sum\r\n":       "Trailer: X-Sum\r\n",
	"Trailer: Authorization, X-Sum\r\n":            "Trailer: X-Sum\r\n",
	"Trailer: a b, X-Sum\r\n":                      "Trailer: X-Sum\r\n",
}

// A Trailer field leaves with names that may be trailers: servers refuse a request that announces
// others, which would not come anyway.
func TestR20_TrailerNames(t *testing.T) {
	const te, chunks = "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"
	for sent, want := range trailerNames {
		requestTable(t, [][2]string{{post(te+sent, chunks), posted(te+want, chunks)}})
	}
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for sent, want := range trailerNames {
			const head = "HTTP/1.1 200 OK\r\nDate: x\r\n" + te
			addr := inPieces(t, head+sent+"\r\n"+chunks, 1000)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			if got := c.head(); got != head+want+"\r\n" {
				t.Errorf("%q became %q", sent, got)
			}
		}
	})
}

// The same where HTTP/2 is spoken on one side or both, to servers of net/http, which are strict.
func TestR20_TrailerNamesHTTP2(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Trailer", "Host, X-Sum")
			content, err := io.ReadAll(req.Body)
			fmt.Fprintf(w, "%s %v %v", content, err, req.Trailer)
			w.Header().Set("X-Sum", "1")
		})
		i := intercept(t, p, addr, roots)
		c := i.h2()
		s := c.begin(false, ":method", "POST", "trailer", "authorization, host, x-sum")
		c.data(s.id, false, "abc")
		c.headers(s.id, true, "x-sum", "2")
		if c.want(s, "200"); s.body.String() != "abc <nil> map[X-Sum:[2]]" {
			t.Errorf("the origin got %q", s.body.String())
		}
		announced := strings.ToLower(valueOf(s.head, "trailer")) // net/http does not hand on that of an origin
		if announced != "x-sum" && version == 1 || valueOf(s.trailer, "x-sum") != "1" || len(s.trailer) != 1 {
			t.Errorf("the client got %v, trailer %v", s.head, s.trailer)
		}
		h1 := newPeer(t, i.tls("http/1.1"))
		h1.send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, X-Sum\r\n\r\n" +
			"3\r\nabc\r\n0\r\nContent-Length: 3\r\nX-Sum: 2\r\n\r\n")
		if res, body := h1.response("POST"); res.StatusCode != 200 || body != "abc <nil> map[X-Sum:[2]]" {
			t.Errorf("%s: the origin got %q", res.Status, body)
		}
	})
}

// What a hook announces is held to the same.
func TestR20_TrailerNamesOfHooks(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			content, err := io.ReadAll(req.Body)
			fmt.Fprintf(w, "%s %v %v", content, err, req.Trailer)
		})
		p.Hooks = append(p.Hooks, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Trailer = http.Header{"Content-Length": {"3"}, "X-Sum": {"2"}}
			req.Header.Set("Trailer", "Content-Length, X-Sum")
			return nil, nil
		}))
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(false, ":method", "POST")
		c.data(s.id, true, "abc")
		if c.want(s, "200"); s.body.String() != "abc <nil> map[X-Sum:[2]]" {
			t.Errorf("the origin got %q", s.body.String())
		}
	})
}

// A hundred interim responses may come at once, whatever the versions are, and not one more.
func TestR41_InterimBurst(t *testing.T) {
	for n, want := range map[int]int{100: 200, 101: 502} {
		eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
			addr, roots := h1Origin(t, func(c *peer) {
				for _, err := c.tryHead(); err == nil; _, err = c.tryHead() {
					c.send(strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n", n) + ok200)
				}
			})
			if version == 2 {
				cert, _ := exampleCert()
				config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
				addr, roots = tlsOrigin(t, onlyHTTP2(config), func(tc *tls.Conn) {
					c := newH2Peer(t, tc, false)
					for s := c.accept(); s != nil; s = c.accept() {
						for range n {
							c.headers(s.id, false, ":status", "103", "link", "<a>")
						}
						c.answer(s, "ok")
					}
				}, nil)
			}
			i := intercept(t, p, addr, roots)
			c := i.h2()
			if s := c.get(); len(s.interim) != 100 || s.outcome() != fmt.Sprint(want) {
				t.Errorf("HTTP/2: %d interim responses, then %s", len(s.interim), s.outcome())
			}
			h1, got := newPeer(t, i.tls("http/1.1")), 0
			h1.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
			head := h1.head()
			for ; strings.HasPrefix(head, "HTTP/1.1 103 "); head = h1.head() {
				got++
			}
			if got != 100 || !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", want)) {
				t.Errorf("HTTP/1: %d interim responses, then %q", got, head)
			}
		})
	}
}

// One now and then is welcome for hours.
func TestR41_InterimForHours(t *testing.T) {
	const n, pause = 4000, 4 * time.Second
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.ResponseTimeout = time.Minute
		synctest.Test(t, func(t *testing.T) {
			c := inMemory(t, p, func(c *peer) {
				c.tryHead()
				for range n {
					time.Sleep(pause)
					c.send("HTTP/1.1 102 Processing\r\n\r\n")
				}
				c.send(ok200)
			})
			c.send(headTo("origin.test", "GET", "/"))
			for i := range n {
				if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 102 ") {
					t.Fatalf("%d: %q", i, head)
				}
			}
			c.wantStatus(200)
		})
	})
}

// The same to and from HTTP/2. Towards an origin, net/http counts from the end of the request.
func TestR41_InterimForHoursHTTP2(t *testing.T) {
	knownFailure(t)
	const n, pause = 400, 4 * time.Second
	p := &mitm.Proxy{ResponseTimeout: time.Minute}
	synctest.Test(t, func(t *testing.T) {
		i := inMemoryTLS(t, p, &tls.Config{NextProtos: []string{"h2"}}, func(tc *tls.Conn) {
			c := newH2Peer(t, tc, false)
			for s := c.accept(); s != nil; s = c.accept() {
				for range n {
					time.Sleep(pause)
					c.headers(s.id, false, ":status", "102")
				}
				c.answer(s, "ok")
			}
		})
		c := i.h2()
		s := c.get()
		if c.want(s, "200"); len(s.interim) != n {
			t.Errorf("%d interim responses", len(s.interim))
		}
	})
}
