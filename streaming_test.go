package mitm_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/mitm"
)

// Each event of a stream is with the client before the origin sends the next one.
func TestStreaming_Events(t *testing.T) {
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	same := func(s string) string { return s }
	for name, test := range map[string]struct {
		fields string
		frame  func(string) string
	}{
		"chunked":         {"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked", chunk},
		"trailers":        {"Content-Type: text/event-stream\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked", chunk},
		"close-delimited": {"Content-Type: application/x-ndjson", same},
		"length":          {"Content-Type: text/plain\r\nContent-Length: 1000000", same},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				proceed := make(chan struct{})
				addr := origin(t, func(c *peer) {
					c.tryHead()
					c.send("HTTP/1.1 200 OK\r\n" + test.fields + "\r\n\r\n")
					for i := 0; ; i++ {
						if _, ok := <-proceed; !ok {
							return
						}
						c.send(test.frame(fmt.Sprintf("data: %d\n\n", i)))
					}
				})
				defer close(proceed)
				c := dial(t, start(t, p))
				c.send(headTo(addr, "GET", "/"))
				c.head() // before the first event
				for i := range 20 {
					proceed <- struct{}{}
					want := test.frame(fmt.Sprintf("data: %d\n\n", i))
					if got := c.read(len(want)); got != want {
						t.Fatalf("got %q, want %q", got, want)
					}
				}
			})
		})
	}
}

// Each piece of an upload, and its end, is with the origin before the client sends the next.
func TestStreaming_Upload(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, test := range [][]string{
			{"Content-Length: 12", "a", "bc", "def", "ghijkl"},
			{"Transfer-Encoding: chunked", "1\r\na\r\n", "2\r\nbc\r\n", "3\r\ndef\r\n", "6\r\nghijkl\r\n", "0\r\nX-T: 1\r\n\r\n"},
		} {
			ready, got := make(chan struct{}), make(chan string)
			addr := origin(t, func(c *peer) {
				c.tryHead()
				close(ready)
				for _, piece := range test[1:] {
					b := make([]byte, len(piece))
					io.ReadFull(c.r, b)
					got <- string(b)
				}
				c.send(ok200)
				c.rest()
			})
			c := dial(t, proxy)
			c.send(headTo(addr, "POST", "/", test[0]))
			<-ready
			for _, piece := range test[1:] {
				c.send(piece)
				if g := <-got; g != piece {
					t.Fatalf("the origin got %q, want %q", g, piece)
				}
			}
			c.wantStatus(200)
		}
	})
}

// The response may go on while the request does.
func TestStreaming_Bidirectional(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			io.Copy(c.Conn, c.r)
		})
		c := dial(t, start(t, p))
		c.send(headTo(addr, "POST", "/", "Transfer-Encoding: chunked"))
		c.head()
		for i := range 50 {
			chunk := fmt.Sprintf("4\r\n%4d\r\n", i)
			c.send(chunk)
			if got := c.read(len(chunk)); got != chunk {
				t.Fatalf("got %q, want %q", got, chunk)
			}
		}
		c.send("0\r\nX-T: 1\r\n\r\n")
		if got := c.read(3) + c.head(); got != "0\r\nX-T: 1\r\n\r\n" {
			t.Errorf("end %q", got)
		}
	})
}

// A final response in the middle of an upload is with the client at once. Where it says that the rest
// of the upload has no reader, or the client is not to begin with it, both connections end.
func TestStreaming_EarlyResponse(t *testing.T) {
	const refusal = "HTTP/1.1 413 Content Too Large\r\nDate: x\r\nCLOSEContent-Length: 3\r\n\r\nno!"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, upload := range []string{
			headTo("ADDR", "POST", "/", "Content-Length: 100000000"),
			headTo("ADDR", "POST", "/", "Content-Length: 100000000") + strings.Repeat("x", 300<<10),
			headTo("ADDR", "POST", "/", "Transfer-Encoding: chunked") + "5\r\nhello\r\n",
			headTo("ADDR", "PUT", "/", "Content-Length: 10", "Expect: 100-continue"),
		} {
			ended := make(chan string, 1)
			addr := origin(t, func(c *peer) {
				head, _ := c.tryHead()
				closing := "Connection: close\r\n"
				if fieldsOf(head)["expect"] != nil {
					closing = ""
				}
				c.send(strings.Replace(refusal, "CLOSE", closing, 1))
				got, _ := c.rest()
				ended <- got
			})
			c := dial(t, proxy)
			go c.send(strings.ReplaceAll(upload, "ADDR", addr))
			head := c.head()
			if !strings.HasPrefix(head, "HTTP/1.1 413 ") || !strings.Contains(head, "\r\nConnection: close\r\n") || c.read(3) != "no!" {
				t.Errorf("got %q", head)
			}
			c.closed()
			if got := <-ended; strings.HasSuffix(got, "\r\n0\r\n\r\n") {
				t.Errorf("the upload ended as if it was complete: %q", got)
			}
		}
	})
}

// A response that comes right after the upload leaves all connections usable.
func TestStreaming_Posts(t *testing.T) {
	const size = 1 << 20
	content := strings.Repeat("0123456789abcdef", size/16)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		var conns atomic.Int32
		addr := origin(t, func(c *peer) {
			conns.Add(1)
			for {
				req, err := http.ReadRequest(c.r)
				if err != nil {
					return
				}
				n, _ := io.Copy(io.Discard, req.Body)
				fmt.Fprintf(c.Conn, "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n%d", n)
			}
		})
		c := dial(t, start(t, p))
		for i := range 100 {
			if i%2 == 0 {
				c.send(headTo(addr, "POST", "/", "Content-Length: 1048576") + content)
			} else {
				c.send(headTo(addr, "POST", "/", "Transfer-Encoding: chunked") + "100000\r\n" + content + "\r\n0\r\n\r\n")
			}
			if res, body := c.response("POST"); body != "1048576" || res.Close {
				t.Fatalf("POST %d: %s %q, close %t", i, res.Status, body, res.Close)
			}
		}
		if n := conns.Load(); n != 1 {
			t.Errorf("%d connections to the origin", n)
		}
	})
}

// A client that goes away ends what is done for it.
func TestR25_ClientGone(t *testing.T) {
	for name, test := range map[string]struct{ request, content, response string }{
		"before the response": {headTo("ADDR", "GET", "/"), "", ""},
		"after an interim":    {headTo("ADDR", "GET", "/"), "", "HTTP/1.1 103 Early Hints\r\n\r\n"},
		"after a small POST":  {headTo("ADDR", "POST", "/", "Content-Length: 2"), "ok", ""},
		"in the response":     {headTo("ADDR", "GET", "/"), "", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"},
		"in an event stream":  {headTo("ADDR", "GET", "/"), "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"},
		"after the upload":    {headTo("ADDR", "POST", "/", "Content-Length: 300000"), strings.Repeat("x", 300000), ""},
		"after both":          {headTo("ADDR", "POST", "/", "Content-Length: 300000"), strings.Repeat("x", 300000), "HTTP/1.1 200 OK\r\n\r\n"},
	} {
		for how, leave := range map[string]func(*net.TCPConn){
			"closed": func(c *net.TCPConn) { c.Close() },
			"reset":  func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					clientGone(t, p, test.request, test.content, test.response, leave)
				})
			})
		}
	}
}

func clientGone(t *testing.T, p *mitm.Proxy, request, content, response string, leave func(*net.TCPConn)) {
	asked, ended := make(chan struct{}), make(chan error, 1)
	addr := origin(t, func(c *peer) {
		c.tryHead()
		io.CopyN(io.Discard, c.r, int64(len(content)))
		close(asked)
		c.send(response)
		_, err := c.r.ReadByte()
		ended <- err
	})
	done := make(chan *mitm.Flow, 1)
	p.Hooks = append(p.Hooks, mitm.OnDone(func(f *mitm.Flow) { done <- f }))
	c := dial(t, start(t, p))
	c.send(strings.ReplaceAll(request, "ADDR", addr) + content)
	<-asked
	if response != "" {
		c.head()
	}
	leave(c.Conn.(*net.TCPConn))
	if err := <-ended; err == nil {
		t.Error("the origin got more bytes")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("the origin connection goes on")
	}
	if f := <-done; f.Err == nil {
		t.Error("the flow ended without an error")
	}
}

// An origin that goes away in the middle of an upload is told to the client.
func TestR25_OriginGone(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := origin(t, func(c *peer) {
			c.tryHead()
			c.Conn.(*net.TCPConn).SetLinger(0)
		})
		c := dial(t, start(t, p))
		c.send(headTo(addr, "POST", "/", "Content-Length: 10") + "part")
		c.wantStatus(502)
		c.closed()
	})
}

// Bytes wait where they are when the next hop does not read: what the proxy takes is
// bounded by its buffers.
func TestR25_Backpressure(t *testing.T) {
	const bound = 2*memBuffer + 256<<10
	const total = 4 << 20
	for name, head := range map[string]string{
		"length":          "HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n",
		"close-delimited": "HTTP/1.1 200 OK\r\n\r\n",
	} {
		t.Run("response "+name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					var written atomic.Int64
					c := inMemory(t, p, func(c *peer) {
						c.tryHead()
						c.send(head)
						writeCounted(c, total, &written)
					})
					c.send(headTo("origin.test", "GET", "/"))
					synctest.Wait()
					if n := written.Load(); n > bound || n < memBuffer {
						t.Errorf("the proxy took %d bytes that nobody reads", n)
					}
					c.head()
					if n, _ := io.CopyN(io.Discard, c.r, total); n != total {
						t.Errorf("read %d bytes", n)
					}
				})
			})
		})
	}
	t.Run("request", func(t *testing.T) {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			synctest.Test(t, func(t *testing.T) {
				read := make(chan struct{})
				c := inMemory(t, p, func(c *peer) {
					c.tryHead()
					<-read
					if n, _ := io.CopyN(io.Discard, c.r, total); n == total {
						c.send(ok200)
					}
				})
				var written atomic.Int64
				c.send(headTo("origin.test", "POST", "/", "Content-Length: 4194304"))
				go writeCounted(c, total, &written)
				synctest.Wait()
				if n := written.Load(); n > bound || n < memBuffer {
					t.Errorf("the proxy took %d bytes that nobody reads", n)
				}
				close(read)
				c.wantStatus(200)
			})
		})
	})
}

func writeCounted(c *peer, total int, written *atomic.Int64) {
	b := make([]byte, 1<<10)
	for n := 0; n < total; n += len(b) {
		if _, err := c.Conn.Write(b); err != nil {
			return
		}
		written.Add(int64(len(b)))
	}
}

// inMemory serves a connection by p inside a synctest bubble and returns the client's
// end. All that p dials is served by the function.
func inMemory(t *testing.T, p *mitm.Proxy, serve func(c *peer)) *peer {
	l := newMemListener()
	p.Dial = l.Dial
	var running sync.WaitGroup
	l.serve(&running, func(nc net.Conn) { serve(newTimelessPeer(t, nc)) })
	client, server := memPipe()
	running.Go(func() { p.ServeConn(context.Background(), server) })
	t.Cleanup(func() {
		client.Close()
		p.Close()
		l.Close()
		running.Wait()
	})
	return newTimelessPeer(t, client)
}

// newTimelessPeer is newPeer for a bubble, where waiting in vain is a deadlock.
func newTimelessPeer(t *testing.T, nc net.Conn) *peer { return &peer{nc, t, bufio.NewReader(nc)} }
