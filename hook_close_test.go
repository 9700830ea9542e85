package mitm_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
)

// A hook may close a response while the proxy sends it. The client then sees that it is cut, and
// nothing of what the proxy reads for others meanwhile.
func TestHookClosesWhatIsSent(t *testing.T) {
	const others, size = 4, 1 << 20
	full := make(chan bool)
	addr := origin(t, func(c *peer) {
		head := c.head()
		c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		chunk := "10000\r\n" + strings.Repeat(head[len("GET /"):][:1], 64<<10) + "\r\n"
		for n := 0; n < size || strings.HasPrefix(head, "GET /slow"); n += 64 << 10 {
			c.SetWriteDeadline(time.Now().Add(patience / 20))
			if _, err := io.WriteString(c.Conn, chunk); err != nil { // the proxy waits for its client
				close(full)
				c.rest()
				return
			}
		}
		c.send("0\r\n\r\n")
	})
	slow := make(chan io.Closer, 1)
	proxy := start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
		if res.Request.URL.Path == "/slow" {
			slow <- res.Body
		}
		return nil
	})}})
	c := dial(t, proxy)
	c.send("GET http://" + addr + "/slow HTTP/1.1\r\nHost: x\r\n\r\n")
	body := receive(t, slow)
	receive(t, full)
	body.Close()
	var all sync.WaitGroup
	for range others {
		all.Go(func() {
			c := dial(t, proxy)
			c.send("GET http://" + addr + "/other HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, body := c.response("GET"); body != strings.Repeat("o", size) {
				t.Errorf("%d bytes", len(body))
			}
		})
	}
	all.Wait()
	got, _ := c.rest()
	if strings.Contains(got, "oo") || strings.HasSuffix(got, "0\r\n\r\n") {
		t.Errorf("%d bytes that end in %q", len(got), got[max(0, len(got)-20):])
	}
}

// Close ends a Read that waits.
func TestHookClosesWhatItReads(t *testing.T) {
	addr := origin(t, func(c *peer) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab")
		<-t.Context().Done()
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
		stalled := time.AfterFunc(50*time.Millisecond, func() { res.Body.Close() })
		defer stalled.Stop()
		_, err := io.ReadAll(res.Body)
		return err
	})}}))
	c.send(getRequest(addr))
	c.wantStatus(502)
}

// closing does something when it is closed.
type closing struct {
	io.Reader
	f func()
}

// Close implements io.Closer.
func (c closing) Close() error { c.f(); return nil }

// What begins when a response is closed comes too late, and is not in the way of the next request.
func TestHookCallsNextWhenClosed(t *testing.T) {
	addr, _ := answering(t, ok200)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/cached" {
				return next.RoundTrip(req)
			}
			res := text(200, "ok")
			res.Body = closing{res.Body, func() {
				if _, err := next.RoundTrip(req); err == nil {
					t.Error("next works")
				}
			}}
			return res, nil
		}),
	}}))
	for _, path := range []string{"/cached", "/other"} {
		c.send("GET http://" + addr + path + " HTTP/1.1\r\nHost: x\r\n\r\n")
		c.wantStatus(200)
	}
}

// leaving makes a request whose client leaves while something goes on. It returns when that has
// been noticed.
func leaving(t *testing.T, request string, hook mitm.Hook, going chan bool, noticed chan bool) {
	t.Helper()
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send(request)
	receive(t, going)
	c.Close()
	receive(t, noticed)
}

// A client that leaves is noticed also when its content was read by a hook.
func TestR25_ClientGoneAfterContent(t *testing.T) {
	const request = "POST http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
	readAll := func(req *http.Request) string {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	for name, content := range map[string]string{"put back": "abc", "replaced": "abcabc"} {
		for _, answered := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				going, noticed := make(chan bool, 1), make(chan bool, 1)
				addr := origin(t, func(c *peer) {
					c.head()
					c.read(len(content))
					if answered {
						c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
					}
					going <- true
					c.rest()
					noticed <- true
				})
				leaving(t, strings.Replace(request, "%s", addr, 1), mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
					readAll(req)
					req.Body, req.ContentLength = io.NopCloser(strings.NewReader(content)), int64(len(content))
					return nil, nil
				}), going, noticed)
			})
		}
	}
	t.Run("hook works", func(t *testing.T) {
		going, noticed := make(chan bool, 1), make(chan bool, 1)
		leaving(t, strings.Replace(request, "%s", "origin.test", 1), mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			readAll(req)
			going <- true
			<-req.Context().Done()
			noticed <- true
			return nil, errors.New("nobody waits")
		}), going, noticed)
	})
	t.Run("hook answers", func(t *testing.T) { // and leaves the content to the proxy
		going, noticed := make(chan bool, 1), make(chan bool, 1)
		leaving(t, strings.Replace(request, "%s", "origin.test", 1), mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			r, w := io.Pipe()
			go func() {
				io.WriteString(w, "abc")
				going <- true
				<-req.Context().Done()
				w.CloseWithError(io.ErrUnexpectedEOF)
				noticed <- true
			}()
			return &http.Response{StatusCode: 200, ContentLength: -1, Body: r}, nil
		}), going, noticed)
	})
}
