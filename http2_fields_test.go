package mitm_test

import (
	"io"
	"net/http"
	"testing"

	"example.com/mitm"
)

// Via tells the version that was received (RFC 9110, section 7.6.3), and a loop is refused.
func TestHTTP2_Via(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		p.Via = "here"
		c := intercept(t, p, addr, roots).h2()
		s := c.get("via", "1.1 before")
		received := map[int]string{1: "1.1 here", 2: "2.0 here"}[version]
		if c.want(s, "200"); valueOf(s.head, "via") != received {
			t.Errorf("response: Via %q, want %q", valueOf(s.head, "via"), received)
		}
		got := valueOf(receive(t, seen).fields, "via")
		if got != "1.1 before|2.0 here" && got != "1.1 before, 2.0 here" {
			t.Errorf("request: Via %q", got)
		}
		if s := c.get("via", "2.0 here"); s.outcome() == "200" {
			t.Errorf("a loop: %s", s.outcome())
		}
	})
}

func TestHTTP2_MaxForwards(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get(":method", "OPTIONS", "max-forwards", "3"), "200")
		if got := valueOf(receive(t, seen).fields, "max-forwards"); got != "2" {
			t.Errorf("Max-Forwards %q, want 2", got)
		}
		c.want(c.get(":method", "TRACE", "max-forwards", "0"), "200")
		c.want(c.get(":path", "/last", "max-forwards", "0"), "200") // of a GET it means nothing
		wantGot := receive(t, seen)
		if wantGot.path != "/last" || valueOf(wantGot.fields, "max-forwards") != "0" {
			t.Errorf("the origin got %+v", wantGot)
		}
	})
}

// HTTP/2 has no upgrade: an HTTP/1 origin that makes one anyway gives a bad answer.
func TestHTTP2_NoUpgrade(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, roots := h1Origin(t, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nsecret")
			c.rest()
		})
		c := intercept(t, p, addr, roots).h2()
		if s := c.get(); s.outcome() != "502" || len(s.interim) > 0 {
			t.Errorf("%s, interim %v", s.outcome(), s.interim)
		}
	})
}

// Hooks change trailers.
func TestHTTP2_HookTrailers(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := h1Origin(t, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Drop\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Drop: 1\r\n\r\n")
			c.rest()
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				for s := c.accept(); s != nil; s = c.accept() {
					c.headers(s.id, false, ":status", "200", "trailer", "x-sum, x-drop")
					c.data(s.id, false, "abc")
					c.headers(s.id, true, "x-sum", "1", "x-drop", "1")
				}
			})
		}
		p.Hooks = append(p.Hooks, mitm.OnResponse(func(res *http.Response) error {
			res.Body = &atEnd{res.Body, func() {
				res.Trailer.Del("X-Drop")
				res.Trailer.Set("X-Hook", res.Trailer.Get("X-Sum")+"2")
			}}
			return nil
		}))
		c := intercept(t, p, addr, roots).h2()
		s := c.get()
		c.want(s, "200")
		if valueOf(s.trailer, "x-sum") != "1" || valueOf(s.trailer, "x-hook") != "12" || valueOf(s.trailer, "x-drop") != "" {
			t.Errorf("trailer %v", s.trailer)
		}
	})
}

// atEnd calls a function when its reader is at its end.
type atEnd struct {
	io.ReadCloser
	then func()
}

func (r *atEnd) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err == io.EOF {
		r.then()
	}
	return n, err
}

// Content that is decided about by its first bytes only is not read further: a hook may
// close a response early, which resets the origin's stream, and answer itself.
func TestHTTP2_HookReplaces(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		begun, ended, handler := waiting(t, version)
		addr, roots := handlerOrigin(t, version, handler)
		p.Hooks = append(p.Hooks, mitm.OnResponse(func(res *http.Response) error {
			if res.Request.URL.Path == "/slow" {
				b := make([]byte, 3)
				io.ReadFull(res.Body, b)
				res.Body.Close()
				*res = *text(203, "instead of "+string(b))
			}
			return nil
		}))
		c := intercept(t, p, addr, roots).h2()
		s := c.get(":path", "/slow")
		if c.want(s, "203"); s.body.String() != "instead of abc" {
			t.Errorf("%q", s.body.String())
		}
		receive(t, begun)
		if err := receive(t, ended); err != nil {
			t.Error(err)
		}
		c.want(c.get(":path", "/good"), "200")
	})
}

// Trailers come through though a hook copies the request and wraps the content of both messages.
func TestHTTP2_TrailersOfCopies(t *testing.T) {
	for version := 1; version <= 2; version++ {
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			io.Copy(io.Discard, req.Body)
			w.(http.Flusher).Flush() // in HTTP/1 that makes chunks, which trailers need
			io.WriteString(w, "ok")
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", req.Trailer.Get("X-Sum"))
		})
		c := intercept(t, &mitm.Proxy{Hooks: []mitm.Hook{
			wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
				copied := req.Clone(req.Context())
				copied.Body = struct{ io.ReadCloser }{req.Body}
				res, err := next.RoundTrip(copied)
				if err == nil {
					res.Body = struct{ io.ReadCloser }{res.Body}
				}
				return res, err
			}),
		}}, addr, roots).h2()
		s := c.begin(false, ":method", "POST", "trailer", "x-sum")
		c.data(s.id, false, "abc")
		c.headers(s.id, true, "x-sum", "7")
		if c.want(s, "200"); valueOf(s.trailer, "grpc-status") != "7" {
			t.Errorf("HTTP/%d: trailers %v", version, s.trailer)
		}
	}
}
