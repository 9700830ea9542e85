package mitm_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/mitm"
)

// stale is an origin that, at its n-th connection, answers as many requests as counts
// says and hangs up on the next one without a word, or after partial.
func stale(t *testing.T, partial string, counts ...int) (addr string, seen chan string) {
	seen = make(chan string, 64)
	var conns atomic.Int32
	addr = origin(t, func(c *peer) {
		n := int(conns.Add(1))
		left := 1 << 20
		if n <= len(counts) {
			left = counts[n-1]
		}
		for ; ; left-- {
			req, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			io.Copy(io.Discard, req.Body)
			seen <- strings.Join([]string{string(rune('0' + n)), req.Method, req.URL.Path}, " ")
			if left == 0 {
				c.send(partial)
				return
			}
			c.send(ok200)
		}
	})
	return addr, seen
}

// A connection that was idle may be closed by the origin while a request is on its way.
// The request is sent once more, on a new connection, if it is safe to do so.
func TestR24_StaleConnection(t *testing.T) {
	const chunks = "Transfer-Encoding: chunked"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, test := range []struct {
			method, field, content, partial string
			retried                         bool
		}{
			{"GET", "A: b", "", "", true},
			{"HEAD", "A: b", "", "", true},
			{"OPTIONS", "A: b", "", "", true},
			{"DELETE", "A: b", "", "", true},
			{"PUT", "Content-Length: 2", "ok", "", true},
			{"GET", "A: b", "", "H", false},
			{"GET", "A: b", "", "HTTP/1.1 200 OK\r\n", false},
			{"GET", "A: b", "", "HTTP/1.1 103 Early Hints\r\n\r\n", false},
			{"POST", "Content-Length: 0", "", "", false},
			{"POST", "Content-Length: 2", "ok", "", false},
			{"POST", chunks, "2\r\nok\r\n0\r\n\r\n", "", false},
			{"PATCH", "Content-Length: 2", "ok", "", false},
			{"get", "A: b", "", "", false},
			{"LOCK", "A: b", "", "", false},
		} {
			addr, seen := stale(t, test.partial, 1)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			c.wantStatus(200)
			wantSeen(t, seen, "1 GET /a")
			c.send(headTo(addr, test.method, "/b", test.field) + test.content)
			if strings.Contains(test.partial, "103") {
				c.head()
			}
			res, _ := c.response(test.method)
			wantSeen(t, seen, "1 "+test.method+" /b")
			if test.retried {
				wantSeen(t, seen, "2 "+test.method+" /b")
			}
			if ok := res.StatusCode == 200; ok != test.retried || len(seen) > 0 {
				t.Errorf("%s %s%q: %s, %d more requests", test.method, test.field, test.partial, res.Status, len(seen))
			}
		}
	})
}

// A request is repeated once, however many idle connections turn out to be dead.
func TestR24_OneRetry(t *testing.T) {
	const idle = 3
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen, proceed := make(chan string, 64), make(chan struct{})
		var conns atomic.Int32
		addr := origin(t, func(c *peer) {
			keeps := conns.Add(1) > idle
			for {
				head, err := c.tryHead()
				if err != nil {
					return
				}
				line, _, _ := strings.Cut(head, " HTTP/")
				seen <- line
				if line == "GET /b" && !keeps {
					return
				}
				if line == "GET /a" {
					<-proceed
				}
				c.send(ok200)
			}
		})
		proxy := start(t, p)
		var clients []*peer
		for range idle { // at the same time, so that each needs a connection
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			wantSeen(t, seen, "GET /a")
			clients = append(clients, c)
		}
		close(proceed)
		for _, c := range clients {
			c.wantStatus(200)
		}
		clients[0].send(headTo(addr, "GET", "/b"))
		clients[0].wantStatus(200)
		wantSeen(t, seen, "GET /b", "GET /b")
		if len(seen) > 0 {
			t.Errorf("the request was sent %d times", 2+len(seen))
		}
	})
}

// A new connection that fails is an answer: nothing is repeated.
func TestR24_NewConnection(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, seen := stale(t, "", 0, 0)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		c.wantStatus(502)
		wantSeen(t, seen, "1 GET /")
		if len(seen) > 0 {
			t.Errorf("repeated: %s", <-seen)
		}
	})
}

// A connection that the origin closed while it was idle is not used at all.
func TestR24_ClosedWhileIdle(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, seen := scripted(t, ok200+thenClose, ok200)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/a"))
		c.wantStatus(200)
		wantSeen(t, seen, "1 GET /a", "1 end")
		c.send(headTo(addr, "POST", "/b", "Content-Length: 0"))
		c.wantStatus(200)
		wantSeen(t, seen, "2 POST /b")
	})
}

// Credentials of NTLM and Negotiate belong to a connection, which stays with its client.
func TestBoundConnections(t *testing.T) {
	for name, fixed := range map[string]bool{"explicit": false, "reverse": true} {
		for field, challenge := range map[string]string{
			"Authorization: NTLM TlRM":      "",
			"Authorization: Negotiate YII=": "",
			"A: b":                          "WWW-Authenticate: Negotiate\r\n",
			"A: c":                          "WWW-Authenticate: Basic realm=x\r\nWWW-Authenticate: ntlm TlRM\r\n",
		} {
			t.Run(name+" "+field+challenge, func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					first := strings.Replace(ok200, "\r\n", "\r\n"+challenge, 1)
					addr, seen := scripted(t, first, ok200, ok200, ok200)
					if fixed {
						p.Mode = mitm.Reverse{Target: &url.URL{Scheme: "http", Host: addr}}
					}
					bound(t, start(t, p), addr, seen, field)
				})
			})
		}
	}
}

func bound(t *testing.T, proxy, addr string, seen chan string, field string) {
	one, other := dial(t, proxy), dial(t, proxy)
	one.send(headTo(addr, "GET", "/a", field))
	one.wantStatus(200)
	wantSeen(t, seen, "1 GET /a")
	other.send(headTo(addr, "GET", "/b"))
	other.wantStatus(200)
	wantSeen(t, seen, "2 GET /b")
	one.send(headTo(addr, "GET", "/c"))
	one.wantStatus(200)
	wantSeen(t, seen, "1 GET /c")
	one.Close()
	wantSeen(t, seen, "1 end")
	other.send(headTo(addr, "GET", "/d"))
	other.wantStatus(200)
	wantSeen(t, seen, "2 GET /d")
}

// Idle connections that the origin has closed are passed over for one that is in order.
func TestR24_NextIdle(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen := make(chan string, 64)
		answer, hungUp := []chan bool{make(chan bool), make(chan bool)}, make(chan bool)
		var conns atomic.Int32
		addr := origin(t, func(c *peer) {
			n := int(conns.Add(1)) - 1
			for n < len(answer) {
				head, err := c.tryHead()
				if err != nil {
					return
				}
				line, _, _ := strings.Cut(head, " HTTP/")
				seen <- line
				if line == "GET /a" {
					<-answer[n]
				}
				if c.send(ok200); n == 1 {
					<-hungUp // when the proxy keeps it
					c.Close()
					close(hungUp)
					return
				}
			}
		})
		proxy := start(t, p)
		var clients []*peer
		for range answer {
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			wantSeen(t, seen, "GET /a")
			clients = append(clients, c)
		}
		for n, c := range clients { // the second becomes idle last, and would be used first
			close(answer[n])
			c.wantStatus(200)
		}
		hungUp <- true
		<-hungUp
		clients[0].send(headTo(addr, "GET", "/b"))
		clients[0].wantStatus(200)
		if n := conns.Load(); n != 2 {
			t.Errorf("%d connections", n)
		}
	})
}

// A connection that was cut with its client, when all of the response had come, is not used
// for the next one, whose request could not be repeated.
func TestR24_ConnectionOfClientThatLeft(t *testing.T) {
	read, cut, left := make(chan bool), make(chan bool), make(chan bool)
	addr := origin(t, func(c *peer) {
		head := c.head()
		c.read(2)
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		if c.tryHead(); strings.Contains(head, "/leave") {
			close(cut)
		}
	})
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		res, err := next.RoundTrip(req)
		if err == nil && req.URL.Path == "/leave" {
			io.ReadFull(res.Body, make([]byte, 2)) // all of it, but not its end
			close(read)
			<-cut
			io.Copy(io.Discard, res.Body)
			close(left)
		}
		return res, err
	})
	proxy := start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}})
	post := func(path string) *peer {
		c := dial(t, proxy)
		c.send(headTo(addr, "POST", path, "Content-Length: 2") + "ok")
		return c
	}
	c := post("/leave")
	<-read
	c.Close()
	<-left
	post("/").wantStatus(200)
}
