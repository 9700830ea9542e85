package mitm_test

import (
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
