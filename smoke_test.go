package mitm_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

const ok200 = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"

func TestSmoke(t *testing.T) {
	addr, heads := answering(t, ok200)
	for _, hooks := range [][]mitm.Hook{nil, {mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, nil })}} {
		c := dial(t, start(t, &mitm.Proxy{Hooks: hooks}))
		for range 3 {
			c.send("GET http://" + addr + "/x?y HTTP/1.1\r\nHost: other\r\nx-oDD: 1\r\nX-Odd:  2\r\nProxy-Connection: keep-alive\r\n\r\n")
			want := "GET /x?y HTTP/1.1\r\nHost: " + addr + "\r\nx-oDD: 1\r\nX-Odd:  2\r\n\r\n"
			if got := <-heads; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := c.head() + c.read(2); got != ok200 {
				t.Errorf("got %q", got)
			}
		}
		c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: other\r\nTransfer-Encoding: chunked\r\n\r\n")
		t.Log(<-heads)
		if got := c.head() + c.read(2); !strings.Contains(got, "Connection: close") {
			t.Errorf("got %q", got)
		}
		c = dial(t, start(t, &mitm.Proxy{Hooks: hooks}))
		c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: other\r\n\r\nGET / HTTP/1.1\r\n\r\n")
		t.Log(c.head())
		<-heads
		if got := c.head() + c.read(2); got != ok200 {
			t.Errorf("got %q", got)
		}
	}
}

func TestSmokeHooks(t *testing.T) {
	addr, heads := answering(t, ok200)
	var flows []*mitm.Flow
	p := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Header.Set("X-Odd", "9")
			req.Body = io.NopCloser(strings.NewReader("hello"))
			return nil, nil
		}),
		mitm.OnResponse(func(res *http.Response) error {
			res.Body = io.NopCloser(strings.NewReader("changed"))
			return nil
		}),
		mitm.OnDone(func(f *mitm.Flow) { flows = append(flows, f) }),
	}}
	c := dial(t, start(t, p))
	c.send("POST http://" + addr + "/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nx-odd: 1\r\nb: c\r\n\r\nab")
	t.Logf("%q", <-heads)
	t.Logf("%q", c.head()+c.read(7))
	c.Close()
	p.Close()
	for _, f := range flows {
		t.Logf("%+v", f)
	}
}
