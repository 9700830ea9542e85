package mitm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/mitm"
)

// A response that ends early does so for the client too: bytes of content are missing,
// the last chunk is, or the connection is reset.
func TestR21_CutResponse(t *testing.T) {
	const large = 1 << 20
	half := strings.Repeat("x", large/2)
	chunks := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
	for _, test := range []struct {
		name, version string // of the request
		head, content string
		ending        string
		reset         bool // what the client has to see
	}{
		{"length closed", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "ok", thenClose, false},
		{"length reset", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "ok", thenReset, false},
		{"large closed", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(large) + "\r\n\r\n", half, thenClose, false},
		{"large reset", "1.1", "HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(large) + "\r\n\r\n", half, thenReset, false},
		{"chunked closed", "1.1", chunks, "", thenClose, false},
		{"chunked reset", "1.1", chunks, "", thenReset, false},
		{"inside a chunk", "1.1", chunks + "9\r\nok", "", thenClose, false},
		{"inside a size", "1.1", chunks + "0", "", thenClose, false},
		{"inside the last chunk", "1.1", chunks + "0\r\n", "", thenClose, false},
		{"inside trailers", "1.1", chunks + "0\r\nA: b\r\n", "", thenClose, false},
		{"broken size", "1.1", chunks + "x\r\n", "", "", false},
		{"broken end", "1.1", chunks + "2\r\nokay\r\n", "", "", false},
		{"bare LF", "1.1", chunks + "2\nok\r\n", "", "", false},
		{"close-delimited", "1.1", "HTTP/1.1 200 OK\r\n\r\n", "ok", thenReset, true},
		{"length to HTTP/1.0", "1.0", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "ok", thenClose, false},
		{"chunked to HTTP/1.0", "1.0", chunks, "", thenClose, true},
		{"broken to HTTP/1.0", "1.0", chunks + "x\r\n", "", "", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				cutResponse(t, p, test.version, test.head+test.content, test.ending, test.reset)
			})
		})
	}
}

func cutResponse(t *testing.T, p *mitm.Proxy, version, sent, ending string, reset bool) {
	end := make(chan struct{})
	addr := origin(t, func(c *peer) {
		c.tryHead()
		c.send(sent)
		<-end
		if ending == thenReset {
			c.Conn.(*net.TCPConn).SetLinger(0)
		}
		if ending == "" {
			c.rest()
		}
	})
	c := dial(t, start(t, p))
	c.send("GET http://" + addr + "/ HTTP/" + version + "\r\nHost: " + addr + "\r\n\r\n")
	if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200 OK\r\n") {
		t.Fatalf("got %q", head)
	}
	if b, err := c.r.Peek(1); err != nil { // part of it is there before the end
		t.Fatalf("content: %q, %v", b, err)
	}
	close(end)
	got, err := c.rest()
	if strings.HasSuffix(got, "0\r\n\r\n") || got == "" {
		t.Errorf("content looks complete: %q", got)
	}
	if got := errors.Is(err, syscall.ECONNRESET); got != reset || !got && err != nil {
		t.Errorf("the connection ended with %v", err)
	}
}

// An upload that ends early never looks complete to the origin.
func TestR21_CutUpload(t *testing.T) {
	for _, test := range []struct{ name, fields, content string }{
		{"length", "Content-Length: 10", "ok"},
		{"none of it", "Content-Length: 10", ""},
		{"large", "Content-Length: 1048576", strings.Repeat("x", 600<<10)},
		{"chunked", "Transfer-Encoding: chunked", "2\r\nok\r\n"},
		{"inside a chunk", "Transfer-Encoding: chunked", "2\r\nok\r\n9\r\nok"},
		{"inside the last chunk", "Transfer-Encoding: chunked", "2\r\nok\r\n0\r\n"},
		{"broken size", "Transfer-Encoding: chunked", "2\r\nok\r\nx\r\n"},
		{"broken end", "Transfer-Encoding: chunked", "2\r\nokay\r\n0\r\n\r\n"},
	} {
		for name, end := range map[string]func(c *net.TCPConn){
			"half closed": func(c *net.TCPConn) { c.CloseWrite() },
			"closed":      func(c *net.TCPConn) { c.Close() },
			"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		} {
			t.Run(test.name+" "+name, func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) { cutUpload(t, p, test.fields, test.content, end) })
			})
		}
	}
}

func cutUpload(t *testing.T, p *mitm.Proxy, fields, content string, end func(*net.TCPConn)) {
	began, got := make(chan struct{}), make(chan error, 1)
	addr := origin(t, func(c *peer) {
		req, err := http.ReadRequest(c.r)
		close(began)
		if err == nil {
			_, err = io.Copy(io.Discard, req.Body)
		}
		if err == nil {
			c.send(ok200)
		}
		got <- err
	})
	c := dial(t, start(t, p))
	c.send(headTo(addr, "POST", "/", fields) + content)
	if !strings.Contains(content, "x\r\n") && !strings.Contains(content, "okay") {
		<-began
	}
	end(c.Conn.(*net.TCPConn))
	select {
	case <-began:
		if err := <-got; err == nil {
			t.Error("the origin got a whole request")
		}
	default: // what is broken already does not have to be sent at all
	}
}

// What an origin sends behind a response is not the next one.
func TestR22_SurplusBytes(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, response := range []string{
			ok200 + poison,
			ok200 + "\r\n",
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + poison,
			"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + poison,
			"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\nx",
		} {
			addr, seen := scripted(t, response, ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			if _, body := c.response("GET"); strings.Contains(body, "poison") {
				t.Errorf("content %q", body)
			}
			wantSeen(t, seen, "1 GET /a", "1 end")
			c.send(headTo(addr, "GET", "/b"))
			if got := c.head() + c.read(2); got != ok200 {
				t.Errorf("got %q", got)
			}
			wantSeen(t, seen, "2 GET /b")
		}
	})
}

// What an origin sends when nobody asked it is no response, to whoever comes next.
func TestR22_UnsolicitedBytes(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		answered, sent := make(chan struct{}), make(chan struct{})
		var conns atomic.Int32
		addr := origin(t, func(c *peer) {
			poisons := conns.Add(1) == 1
			for {
				if _, err := c.tryHead(); err != nil {
					return
				}
				c.send(ok200)
				if poisons {
					<-answered
					c.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
					close(sent)
				}
			}
		})
		proxy := start(t, p)
		first, second := dial(t, proxy), dial(t, proxy)
		first.send(headTo(addr, "GET", "/"))
		first.wantStatus(200)
		close(answered)
		<-sent
		for _, c := range []*peer{second, first} {
			c.send(headTo(addr, "GET", "/"))
			if got := c.head() + c.read(2); got != ok200 {
				t.Errorf("got %q", got)
			}
		}
	})
}

// Pipelined requests are answered in order, each with content of its own.
func TestR23_Pipelining(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) {
			for {
				req, err := http.ReadRequest(c.r)
				if err != nil {
					return
				}
				b, _ := io.ReadAll(req.Body)
				text := req.URL.Path + string(b)
				fmt.Fprintf(c.Conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
			}
		})
		var all bytes.Buffer
		const n = 50
		for i := range n {
			path := "/" + strconv.Itoa(i)
			switch i % 3 {
			case 0:
				all.WriteString(headTo(addr, "GET", path))
			case 1:
				all.WriteString(headTo(addr, "POST", path, "Content-Length: 2") + "=1")
			case 2:
				all.WriteString(headTo(addr, "PUT", path, "Transfer-Encoding: chunked") + "1\r\n=\r\n1\r\n2\r\n0\r\n\r\n\r\n")
			}
		}
		c := dial(t, start(t, p))
		c.send(all.String())
		for i := range n {
			want := "/" + strconv.Itoa(i) + []string{"", "=1", "=2"}[i%3]
			if _, body := c.response("GET"); body != want {
				t.Errorf("response %d is %q, want %q", i, body, want)
			}
		}
	})
}

// The connection of an HTTP/1.0 client or origin carries one exchange, whatever it says.
func TestR23_HTTP10(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		addr, seen := scripted(t, ok200, ok200)
		c := dial(t, proxy)
		c.send("GET http://" + addr + "/a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + "GET http://" + addr + "/b HTTP/1.0\r\n\r\n")
		if head := c.head(); fieldsOf(head)["connection"][0] != "close" {
			t.Errorf("head %q", head)
		}
		if got, err := c.rest(); got != "ok" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		c = dial(t, proxy)
		c.send(headTo(addr, "GET", "/c"))
		c.wantStatus(200)
		wantSeen(t, seen, "1 GET /a", "1 GET /c")

		old := "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
		addr, seen = scripted(t, old, old)
		c = dial(t, proxy)
		for _, want := range []string{"1", "2"} {
			c.send(headTo(addr, "GET", "/"))
			if head := c.head(); !strings.HasPrefix(head, "HTTP/1.1 200") || fieldsOf(head)["connection"] != nil || c.read(2) != "ok" {
				t.Errorf("head %q", head)
			}
			wantSeen(t, seen, want+" GET /", want+" end")
		}
	})
}

// close from the client ends its connection: what is pipelined behind is not served.
func TestR26_ClientCloses(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, field := range []string{"Connection: close", "connection: x, Close", "Connection: x\r\nConnection: CLOSE", "Proxy-Connection: close"} {
			addr, seen := scripted(t, ok200, ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a", field) + headTo(addr, "GET", "/b"))
			if head := c.head(); len(fieldsOf(head)["connection"]) != 1 || c.read(2) != "ok" {
				t.Errorf("%s: head %q", field, head)
			}
			c.closed()
			c = dial(t, proxy)
			c.send(headTo(addr, "GET", "/c")) // the origin connection is another matter
			c.wantStatus(200)
			wantSeen(t, seen, "1 GET /a", "1 GET /c")
		}
	})
}

// close from the origin ends its connection, not the client's.
func TestR26_OriginCloses(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		response := strings.Replace(ok200, "\r\n", "\r\nConnection: Close\r\n", 1)
		addr, seen := scripted(t, response, response)
		c := dial(t, start(t, p))
		for _, want := range []string{"1", "2"} {
			c.send(headTo(addr, "GET", "/"))
			if got := c.head() + c.read(2); got != ok200 {
				t.Errorf("got %q", got)
			}
			wantSeen(t, seen, want+" GET /", want+" end")
		}
	})
}

// The text of a 502 names the step that failed.
func TestR42_BadGateway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		garbage, _ := scripted(t, "what?\r\n\r\n", "what?\r\n\r\n")
		for addr, step := range map[string]string{closed: "dial ", garbage: "read response "} {
			c := dial(t, proxy)
			for range 2 { // the client connection goes on
				c.send(headTo(addr, "GET", "/"))
				if res, body := c.response("GET"); res.StatusCode != 502 || !strings.HasPrefix(body, step+addr) {
					t.Errorf("%s %q", res.Status, body)
				}
			}
		}
	})
}
