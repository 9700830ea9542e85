package mitm_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

const upgradeFields = "Connection: Upgrade\r\nUpgrade: websocket"

// A 101 that was asked for makes a relay of the connection, with what came in the same
// packets.
func TestR34_Upgrade(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		heads, ends := make(chan string, 1), make(chan string, 1)
		addr := origin(t, func(c *peer) {
			head, _ := c.tryHead()
			heads <- head
			c.send(switching + "welcome")
			io.CopyN(c.Conn, c.r, int64(len("early late")))
			got, _ := c.rest() // up to the client's half close
			c.send("bye")
			ends <- got
		})
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/ws", upgradeFields, "Sec-WebSocket-Key: k") + "early ")
		if head := <-heads; !strings.Contains(head, upgradeFields) || !strings.Contains(head, "Sec-WebSocket-Key: k") {
			t.Errorf("request %q", head)
		}
		if got := c.head() + c.read(len("welcome")); got != switching+"welcome" {
			t.Errorf("response %q", got)
		}
		c.send("late")
		if got := c.read(len("early late")); got != "early late" {
			t.Errorf("echo %q", got)
		}
		c.send("end")
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		if got := <-ends; got != "end" {
			t.Errorf("the origin got %q", got)
		}
		if got, err := c.rest(); got != "bye" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

// The tunnel begins behind the request's content. A 101 that does not wait for its end is none:
// the connection can be neither a tunnel yet nor go on with the upload.
func TestR34_UpgradeWithContent(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for field, content := range map[string]string{"Content-Length: 2": "ab", "Transfer-Encoding: chunked": "2\r\nab\r\n0\r\n\r\n"} {
			for _, early := range []bool{false, true} {
				began, ended := make(chan bool), make(chan bool)
				addr := origin(t, func(c *peer) {
					defer close(ended)
					c.tryHead()
					close(began)
					if !early {
						c.read(len(content))
					}
					c.send(switching)
					io.Copy(c.Conn, c.r)
				})
				c := dial(t, proxy)
				c.send(headTo(addr, "POST", "/", upgradeFields, field) + content[:1])
				<-began
				if early {
					if res, _ := c.response("POST"); res.StatusCode != 502 || !res.Close {
						t.Errorf("%s, early: %s, close %v", field, res.Status, res.Close)
					}
					<-ended
					continue
				}
				c.send(content[1:] + "tunnel")
				if got := c.head(); got != switching {
					t.Fatalf("%s: response %q", field, got)
				}
				c.send("led")
				if got := c.read(len("tunnelled")); got != "tunnelled" {
					t.Errorf("%s: echo %q", field, got)
				}
			}
		}
	})
}

// A refused upgrade is an answer like any other.
func TestR34_UpgradeRefused(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		upgradable := "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nDate: x\r\nContent-Length: 2\r\n\r\nno"
		addr, seen := scripted(t, upgradable, ok200)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/a", upgradeFields))
		if got := c.head() + c.read(2); got != upgradable {
			t.Errorf("got %q", got)
		}
		c.send(headTo(addr, "GET", "/b"))
		c.wantStatus(200)
		wantSeen(t, seen, "1 GET /a", "1 GET /b")
	})
}

// No tunnel without having asked for one that can be had.
func TestR34_Unsolicited101(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, request := range []string{
			headTo("ADDR", "GET", "/"),
			headTo("ADDR", "GET", "/", "Upgrade: websocket"),
			headTo("ADDR", "GET", "/", "Connection: Upgrade"),
			headTo("ADDR", "GET", "/", "Connection: Upgrade", "Upgrade: h2c"),
			headTo("ADDR", "GET", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
			headTo("ADDR", "GET", "/", "Connection: Upgrade", "Upgrade: TLS/1.2, HTTP/2.0"),
			"GET http://ADDR/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		} {
			heads := make(chan string, 1)
			addr := origin(t, func(c *peer) {
				head, _ := c.tryHead()
				heads <- head
				c.send(switching)
				c.rest()
			})
			c := dial(t, proxy)
			c.send(strings.ReplaceAll(request, "ADDR", addr))
			if res, body := c.response("GET"); res.StatusCode != 502 || strings.Contains(body, "secret") {
				t.Errorf("%q: %s %q", request, res.Status, body)
			}
			if fields := fieldsOf(<-heads); fields["upgrade"] != nil || fields["http2-settings"] != nil {
				t.Errorf("%q: forwarded %v", request, fields)
			}
		}
	})
}

// The origin answers Expect; the proxy passes its 100 on and sends none itself.
func TestR40_Continue(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) {
			for {
				head, err := c.tryHead()
				if err != nil || fieldsOf(head)["expect"] == nil {
					return
				}
				c.send("HTTP/1.1 100 Continue\r\n\r\n")
				b := make([]byte, 5)
				io.ReadFull(c.r, b)
				fmt.Fprintf(c.Conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", b)
			}
		})
		c := dial(t, start(t, p))
		for range 3 { // the connection goes on
			c.send(headTo(addr, "POST", "/", "Content-Length: 5", "Expect: 100-Continue"))
			if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
				t.Fatalf("got %q", head)
			}
			c.send("hello")
			if res, body := c.response("POST"); res.StatusCode != 200 || res.Close || body != "hello" {
				t.Fatalf("got %s %q", res.Status, body)
			}
		}
	})
}

// A final status in place of the 100 passes; content that then never comes, or that is
// no request, ends the connection.
func TestR40_FinalStatus(t *testing.T) {
	const refusal = "HTTP/1.1 417 Expectation Failed\r\nDate: x\r\nContent-Length: 2\r\n\r\nno"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) { c.tryHead(); c.send(refusal); c.rest() })
		c := dial(t, start(t, p))
		c.send(headTo(addr, "POST", "/", "Content-Length: 5", "Expect: 100-continue"))
		want := strings.Replace(refusal, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1)
		if got := c.head() + c.read(2); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		c.send("GET /")
		c.closed()
	})
}

// A hook that answers first makes the 100 needless.
func TestR40_HookAnswers(t *testing.T) {
	hook := mitm.OnRequest(func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 403, Body: io.NopCloser(strings.NewReader("no"))}, nil
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send(headTo("origin.test", "POST", "/", "Content-Length: 5", "Expect: 100-continue"))
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 403 ") || fieldsOf(head)["connection"] == nil || c.read(2) != "no" {
		t.Errorf("got %q", head)
	}
	c.closed()
}

// A hook that reads content needs it sent, whoever says so; the client is told once.
func TestR40_HookReads(t *testing.T) {
	addr := origin(t, func(c *peer) {
		head, _ := c.tryHead()
		if fieldsOf(head)["expect"] != nil {
			c.send("HTTP/1.1 100 Continue\r\n\r\n")
		}
		c.skipContent(head)
		c.send(ok200)
	})
	hook := mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		b, err := io.ReadAll(req.Body)
		req.Body = io.NopCloser(strings.NewReader(strings.ToUpper(string(b))))
		return nil, err
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send(headTo(addr, "POST", "/", "Content-Length: 5", "Expect: 100-continue"))
	if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("got %q", head)
	}
	c.send("hello")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
		t.Errorf("got %q", head)
	}
}

// HTTP/1.0 knows neither Expect nor 100.
func TestR40_HTTP10(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		heads := make(chan string, 1)
		addr := origin(t, func(c *peer) {
			head, _ := c.tryHead()
			heads <- head
			c.skipContent(head)
			c.send("HTTP/1.1 100 Continue\r\n\r\n" + ok200)
		})
		c := dial(t, start(t, p))
		c.send("POST http://" + addr + "/ HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
		if head := <-heads; fieldsOf(head)["expect"] != nil {
			t.Errorf("forwarded %q", head)
		}
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 ") {
			t.Errorf("got %q", head)
		}
	})
}

// Every 1xx is with the client before the origin goes on; none with one of HTTP/1.0.
func TestR41_Interim(t *testing.T) {
	hints := []string{
		"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </b>\r\n\r\n",
		"HTTP/1.1 102 Processing\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n",
		"HTTP/1.1 199 Anything\r\nA: b\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </c>\r\n\r\n",
	}
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proceed := make(chan struct{}, 1)
		addr := origin(t, func(c *peer) {
			c.tryHead()
			for _, hint := range hints {
				<-proceed
				c.send(hint)
			}
			<-proceed
			c.send(ok200)
		})
		proxy := start(t, p)
		c := dial(t, proxy)
		c.send(headTo(addr, "GET", "/"))
		for _, want := range append(hints[:len(hints):len(hints)], strings.TrimSuffix(ok200, "ok")) {
			proceed <- struct{}{}
			if got := c.head(); got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		addr, _ = scripted(t, strings.Join(hints, "")+ok200)
		c = dial(t, proxy)
		c.send("GET http://" + addr + "/ HTTP/1.0\r\n\r\n")
		if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
			t.Errorf("HTTP/1.0 client got %q", head)
		}
	})
}

// A 1xx has no content, whatever it says, and no framing fields.
func TestR41_InterimFraming(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := scripted(t, "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n\r\n"+
			"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n"+ok200)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		for range 2 {
			if head := c.head(); head != "HTTP/1.1 103 Early Hints\r\n\r\n" {
				t.Errorf("got %q", head)
			}
		}
		if got := c.head() + c.read(2); got != ok200 {
			t.Errorf("got %q", got)
		}
	})
}

// Interim responses without end are no way to keep a proxy busy.
func TestR41_InterimLimit(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		const many = 1000
		addr, _ := scripted(t, strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", many)+ok200)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		n := 0
		head := c.head()
		for ; strings.HasPrefix(head, "HTTP/1.1 102 "); head = c.head() {
			n++
		}
		if !strings.HasPrefix(head, "HTTP/1.1 502 ") || n == 0 || n > 100 {
			t.Errorf("%d interim responses, then %q", n, head)
		}
	})
}
