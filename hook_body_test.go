package mitm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"example.com/mitm"
)

// recording is an origin that reads requests as net/http does, with their content, and
// answers with response.
func recording(t *testing.T, response string) (addr string, got chan recorded) {
	got = make(chan recorded, 64)
	addr = origin(t, func(c *peer) {
		for {
			req, err := http.ReadRequest(c.r)
			if err != nil {
				return
			}
			content, err := io.ReadAll(req.Body)
			got <- recorded{req, string(content), err}
			if err != nil {
				return
			}
			c.send(response)
		}
	})
	return addr, got
}

type recorded struct {
	*http.Request
	content string
	err     error
}

// infinite is content that never ends.
type infinite struct{}

func (infinite) Read(p []byte) (int, error) { return len(p), nil }
func (infinite) Close() error               { return nil }

// endingIn is content that ends in an error or a panic.
type endingIn struct {
	io.Reader
	fail func() error
}

func (f endingIn) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err == io.EOF {
		err = f.fail()
	}
	return n, err
}

func (endingIn) Close() error { return nil }

var errContent = errors.New("no more content")

func fails() error  { return errContent }
func panics() error { panic("oops") }

// sizes are around the pooled buffer of 72 KiB, in which the head has to fit too.
var sizes = func() []int {
	list := []int{0, 1, 2, 3, 1000, 72<<10 - 1, 72 << 10, 72<<10 + 1, 300 << 10}
	for n := 72<<10 - 256; n < 72<<10; n += 16 {
		list = append(list, n)
	}
	return list
}()

// replacements are the ways to replace content; length is what the receiver is told.
var replacements = []struct {
	name     string
	body     func(io.ReadCloser, string) io.ReadCloser
	given    func(old int64, n int) int64
	measured bool // known length if it is short
}{
	{"new", fresh, unchanged, true},
	{"new, with length", fresh, length, true},
	{"new, unknown", fresh, unknown, false},
	{"wrapped", wrapped, unchanged, true},
	{"wrapped, with length", wrapped, length, true},
	{"wrapped, unknown", wrapped, unknown, false},
}

func fresh(_ io.ReadCloser, s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

// wrapped reads the old content and then the new.
func wrapped(old io.ReadCloser, s string) io.ReadCloser {
	first := io.TeeReader(old, io.Discard)
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(skipped{first}, strings.NewReader(s)), old}
}

// skipped reads to the end of r and gives nothing.
type skipped struct{ r io.Reader }

func (s skipped) Read([]byte) (int, error) {
	if _, err := io.Copy(io.Discard, s.r); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func unchanged(old int64, _ int) int64 { return old }
func length(_ int64, n int) int64      { return int64(n) }
func unknown(int64, int) int64         { return -1 }

func TestHookReplacesRequestContent(t *testing.T) {
	addr, got := recording(t, ok200)
	for _, r := range replacements {
		t.Run(r.name, func(t *testing.T) {
			c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
				mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
					n, _ := strconv.Atoi(req.URL.Path[1:])
					req.Body = r.body(req.Body, strings.Repeat("x", n))
					req.ContentLength = r.given(req.ContentLength, n)
					return nil, nil
				}),
			}}))
			for _, n := range sizes {
				for _, content := range []string{"Content-Length: 4\r\n\r\nabcd", "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", "\r\n"} {
					c.send(fmt.Sprintf("POST http://%s/%d HTTP/1.1\r\nHost: x\r\n%s", addr, n, content))
					c.wantStatus(200)
					req := <-got
					if req.err != nil || req.content != strings.Repeat("x", n) {
						t.Fatalf("size %d: got %d bytes, %v", n, len(req.content), req.err)
					}
					if known := req.ContentLength >= 0; r.measured && n < 72<<10 && !known && r.given(-1, n) != -1 {
						t.Errorf("size %d: length %d", n, req.ContentLength)
					}
				}
			}
		})
	}
}

func TestHookReplacesResponseContent(t *testing.T) {
	for _, r := range replacements {
		for name, response := range map[string]string{
			"length":  ok200,
			"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		} {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				addr, _ := answering(t, response)
				c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
					mitm.OnResponse(func(res *http.Response) error {
						n, _ := strconv.Atoi(res.Request.URL.Path[1:])
						res.Body = r.body(res.Body, strings.Repeat("x", n))
						res.ContentLength = r.given(res.ContentLength, n)
						return nil
					}),
				}}))
				for _, size := range sizes {
					c.send(fmt.Sprintf("GET http://%s/%d HTTP/1.1\r\nHost: x\r\n\r\n", addr, size))
					res, content := c.response("GET")
					if content != strings.Repeat("x", size) || res.Close {
						t.Fatalf("size %d: got %d bytes, %v", size, len(content), res)
					}
				}
			})
		}
	}
}

// The client's own content, unread, is not taken for a request.
func TestHookReplacesContentUnread(t *testing.T) {
	addr, got := recording(t, ok200)
	for _, size := range []int{1, 64 << 10} {
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				req.Body = fresh(nil, strings.Repeat("x", size))
				return nil, nil
			}),
		}}))
		inside := "GET http://" + addr + "/inside HTTP/1.1\r\nHost: x\r\n\r\n"
		c.send(fmt.Sprintf("POST http://%s/outside HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", addr, len(inside), inside))
		c.wantStatus(200)
		c.send("GET http://" + addr + "/after HTTP/1.1\r\nHost: x\r\n\r\n")
		if res, _ := c.response("GET"); res.StatusCode != 200 {
			t.Errorf("size %d: %v", size, res)
		}
		for _, want := range []string{"/outside", "/after"} {
			if req := <-got; req.URL.Path != want {
				t.Errorf("size %d: got %s, want %s", size, req.URL.Path, want)
			}
		}
	}
}

// The whole content is read and put back.
func TestHookPutsContentBack(t *testing.T) {
	for _, size := range []int{0, 5, 100 << 10} {
		content := strings.Repeat("y", size)
		response := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nA: b\r\n\r\n%s", size, content)
		addr, got := recording(t, response)
		read := func(body *io.ReadCloser) error {
			b, err := io.ReadAll(*body)
			if string(b) != content {
				t.Errorf("read %d bytes, want %d", len(b), size)
			}
			(*body).Close()
			*body = io.NopCloser(bytes.NewReader(b))
			return err
		}
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) { return nil, read(&req.Body) }),
			mitm.OnResponse(func(res *http.Response) error { return read(&res.Body) }),
		}}))
		for range 2 {
			c.send(fmt.Sprintf("PUT http://%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", addr, size, content))
			if _, body := c.response("PUT"); body != content {
				t.Errorf("got %d bytes, want %d", len(body), size)
			}
			if req := <-got; req.content != content {
				t.Errorf("origin got %d bytes, want %d", len(req.content), size)
			}
		}
	}
}

// A hook that took content away leaves none behind.
func TestHookRemovesContent(t *testing.T) {
	addr, heads := answering(t, ok200)
	for _, none := range []io.ReadCloser{nil, http.NoBody} {
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				req.Body, req.ContentLength = none, 0
				return nil, nil
			}),
			mitm.OnResponse(func(res *http.Response) error {
				res.Body, res.ContentLength = none, 0
				return nil
			}),
		}}))
		c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
		if want := "POST / HTTP/1.1\r\nHost: " + addr + "\r\nContent-Length: 0\r\n\r\n"; <-heads != want {
			t.Errorf("want %q", want)
		}
		if res, body := c.response("POST"); body != "" || res.ContentLength != 0 {
			t.Errorf("got %v %q", res, body)
		}
	}
}

// The content of the request may be that of the response.
func TestHookEchoes(t *testing.T) {
	proxy := start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, ContentLength: -1, Body: req.Body}, nil
	})}})
	for _, size := range []int{1, 1 << 20} {
		content := strings.Repeat("x", size)
		c := dial(t, proxy)
		go io.WriteString(c.Conn, fmt.Sprintf("POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", size, content))
		if res, body := c.response("POST"); res.StatusCode != 200 || body != content {
			t.Errorf("%s: %d bytes, want %d", res.Status, len(body), size)
		}
	}
}
