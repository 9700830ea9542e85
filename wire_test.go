package mitm_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// ok200 is a response of an origin.
const ok200 = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"

// start serves p on a free port of loopback and returns its address. The proxy is
// closed when the test ends.
func start(t testing.TB, p *mitm.Proxy) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
	return l.Addr().String()
}

// origin runs serve for every connection to the returned address; the connection is
// closed when serve returns.
func origin(t testing.TB, serve func(c *peer)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				serve(newPeer(t, nc))
			}()
		}
	}()
	return l.Addr().String()
}

// answering is an origin that answers every request head with a fixed response, and
// sends what it got to the returned channel. It does not read content.
func answering(t testing.TB, response string) (addr string, heads chan string) {
	t.Helper()
	heads = make(chan string, 64)
	addr = origin(t, func(c *peer) {
		for {
			head, err := c.tryHead()
			if err != nil {
				return
			}
			heads <- head
			c.send(response)
		}
	})
	return addr, heads
}

// peer is one end of a connection, for tests that speak raw bytes.
type peer struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

func newPeer(t testing.TB, nc net.Conn) *peer {
	nc.SetDeadline(time.Now().Add(patience))
	return &peer{nc, t, bufio.NewReader(nc)}
}

// dial connects to addr.
func dial(t testing.TB, addr string) *peer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return newPeer(t, nc)
}

// send writes s.
func (p *peer) send(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Conn, s); err != nil {
		p.t.Logf("send: %v", err)
	}
}

// tryHead reads a message head with its empty line.
func (p *peer) tryHead() (string, error) {
	var b strings.Builder
	for {
		line, err := p.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
		if line == "\r\n" {
			return b.String(), nil
		}
	}
}

// head reads a message head with its empty line, or fails the test.
func (p *peer) head() string {
	p.t.Helper()
	head, err := p.tryHead()
	if err != nil {
		p.t.Fatalf("no message head: %v; got %q", err, head)
	}
	return head
}

// read reads n bytes.
func (p *peer) read(n int) string {
	p.t.Helper()
	b := make([]byte, n)
	if n, err := io.ReadFull(p.r, b); err != nil {
		p.t.Fatalf("read: %v; got %q", err, b[:n])
	}
	return string(b)
}

// rest reads to the end of the connection and says how it ended.
func (p *peer) rest() (string, error) {
	b, err := io.ReadAll(p.r)
	return string(b), err
}

// response reads a response as net/http does, content included.
func (p *peer) response(method string) (*http.Response, string) {
	p.t.Helper()
	res, err := http.ReadResponse(p.r, &http.Request{Method: method})
	if err != nil {
		p.t.Fatalf("no response: %v", err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatalf("content: %v; got %q", err, b)
	}
	return res, string(b)
}

// closed fails the test unless the connection ends without another byte.
func (p *peer) closed() {
	p.t.Helper()
	b, err := p.rest()
	if b != "" {
		p.t.Errorf("more bytes: %q", b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Error("the connection does not end")
	}
}

// wantStatus fails the test unless the response has the status.
func (p *peer) wantStatus(status int) {
	p.t.Helper()
	if res, body := p.response("GET"); res.StatusCode != status {
		p.t.Errorf("status %s, want %d: %s", res.Status, status, body)
	}
}
