package mitm_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"

	"example.com/mitm"
)

func TestHookTrailers(t *testing.T) {
	response := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\nx-other: 2\r\n\r\n"
	addr := origin(t, func(c *peer) {
		c.head()
		if got, want := c.read(31), "2\r\nhi\r\n0\r\nx-SUM: 7\r\nx-more: 8\r\n"; got != want[:31] {
			t.Errorf("origin got %q, want %q", got, want)
		}
		c.send(response)
		c.rest()
	})
	var seen http.Header
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			if _, ok := req.Trailer["X-Sum"]; !ok {
				t.Errorf("trailers announced: %v", req.Trailer)
			}
			body := req.Body
			req.Body = endingIn{body, func() error { req.Trailer.Set("X-Sum", "7"); return io.EOF }}
			res, err := next.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			old := res.Body
			res.Body = endingIn{old, func() error {
				seen = res.Trailer.Clone()
				res.Trailer.Set("X-Sum", "9")
				res.Trailer.Set("X-New", "new")
				res.Trailer.Set("Content-Length", "5")
				return io.EOF
			}}
			res.ContentLength = -1
			return res, nil
		}),
	}}))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-SUM: 5\r\nx-more: 8\r\n\r\n")
	res, _ := c.response("POST")
	if seen.Get("X-Sum") != "1" || seen.Get("X-Other") != "2" {
		t.Errorf("hook saw %v", seen)
	}
	if got := fmt.Sprint(res.Trailer); got != "map[X-New:[new] X-Other:[2] X-Sum:[9]]" {
		t.Errorf("client got %s", got)
	}
}

// Trailers need chunks, which content has whose hook sets them.
func TestHookAddsTrailers(t *testing.T) {
	addr, got := recording(t, ok200)
	trailer := func() http.Header { return http.Header{"X-Sum": {"1"}} }
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) { req.Trailer = trailer(); return nil, nil }),
		mitm.OnResponse(func(res *http.Response) error { res.Trailer = trailer(); return nil }),
	}}))
	for range 2 {
		c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
		res, body := c.response("POST")
		if res.Trailer.Get("X-Sum") != "1" || body != "ok" {
			t.Errorf("got %v %q", res, body)
		}
		if req := <-got; req.Trailer.Get("X-Sum") != "1" || req.content != "hi" {
			t.Errorf("origin got %v", req)
		}
	}
}

// A response's content may still be read when the exchange is over for the client; its
// reader gets an error and nobody waits.
func TestHookReadsTooLate(t *testing.T) {
	stop := make(chan struct{})
	addr := origin(t, func(c *peer) {
		c.head()
		c.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nbegun")
		<-stop
	})
	defer close(stop)
	late := make(chan error, 1)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			go func() {
				_, err := io.ReadAll(res.Body)
				late <- err
			}()
			return text(200, "stale"), nil
		}),
	}}))
	for range 2 {
		c.send(getRequest(addr))
		c.wantStatus(200)
		if err := <-late; err == nil {
			t.Error("no error")
		}
	}
}

// Trailers pass though a hook wraps the content, and though they were not announced.
func TestHookWrapsContentWithTrailers(t *testing.T) {
	const response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n%s\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
	for _, announcement := range []string{"", "Trailer: X-Sum\r\n"} {
		addr, _ := answering(t, fmt.Sprintf(response, announcement))
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
			res.Body = struct{ io.ReadCloser }{res.Body}
			return nil
		})}}))
		c.send(getRequest(addr))
		if res, body := c.response("GET"); body != "ok" || fmt.Sprint(res.Trailer) != "map[X-Sum:[1]]" {
			t.Errorf("%q: %q, trailers %v", announcement, body, res.Trailer)
		}
	}
}

// A hook may send a copy of the request. The trailers that come later are those of the original.
func TestHookClonesRequestWithTrailers(t *testing.T) {
	addr, got := recording(t, ok200)
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			return next.RoundTrip(req.Clone(req.Context()))
		}),
	}}))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 5\r\n\r\n")
	c.wantStatus(200)
	if r := receive(t, got); r.content != "hi" || fmt.Sprint(r.Trailer) != "map[X-Sum:[5]]" {
		t.Errorf("%q, trailers %v", r.content, r.Trailer)
	}
}

// To read on after the end does not add trailers.
func TestHookReadsBeyondTrailers(t *testing.T) {
	const content = "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n"
	addr, got := recording(t, "HTTP/1.1 200 OK\r\n"+content)
	beyond := func(body io.ReadCloser) io.ReadCloser {
		b, err := io.ReadAll(body)
		for range 3 {
			body.Read(make([]byte, 1))
		}
		if err != nil || string(b) != "hi" {
			t.Errorf("%q, %v", b, err)
		}
		return io.NopCloser(bytes.NewReader(b))
	}
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) { req.Body = beyond(req.Body); return nil, nil }),
		mitm.OnResponse(func(res *http.Response) error { res.Body = beyond(res.Body); return nil }),
	}}))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\n" + content)
	if res, _ := c.response("POST"); fmt.Sprint(res.Trailer) != "map[X-Sum:[1]]" {
		t.Errorf("client got %v", res.Trailer)
	}
	if r := receive(t, got); fmt.Sprint(r.Trailer) != "map[X-Sum:[1]]" {
		t.Errorf("origin got %v", r.Trailer)
	}
}
