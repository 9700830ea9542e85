package mitm_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
	"golang.org/x/net/http2/hpack"
)

// names returns the names of fields, in order.
func names(fields []hpack.HeaderField) string {
	var list []string
	for _, f := range fields {
		list = append(list, f.Name)
	}
	return strings.Join(list, " ")
}

// A request has the fields that the client sent, and no others, and so has the response.
func TestHTTP2_NothingAdded(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		seen := make(chan gotRequest, 4)
		addr, roots := h1Origin(t, func(c *peer) {
			for c.report(seen) {
				c.send("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\n<html")
			}
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				c.report(seen, func(s *h2stream) { c.answer(s, "<html", "date", "x", "content-length", "5") })
			})
		}
		c := intercept(t, p, addr, roots).h2()
		s := c.get()
		if got := names(s.head); got != ":status date content-length" && got != ":status content-length date" {
			t.Errorf("response with %s", got)
		}
		if got := receive(t, seen); len(got.fields) > 0 {
			t.Errorf("the origin got %v", got.fields)
		}
		s = c.begin(false, ":method", "POST", "x-b", "1", "x-a", "2", "x-b", "3", "accept-encoding", "br", "content-length", "3")
		c.data(s.id, true, "abc")
		c.want(s, "200")
		got := receive(t, seen)
		if got.content != "abc" || len(got.fields) != 5 || valueOf(got.fields, "x-b") != "1|3" || valueOf(got.fields, "accept-encoding") != "br" {
			t.Errorf("the origin got %+v", got)
		}
	})
}

// Every interim response reaches the client before the final one.
func TestHTTP2_Interim(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		proceed := make(chan struct{})
		addr, roots := h1Origin(t, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 199 X\r\n\r\n")
			<-proceed
			c.send(ok200)
			c.rest()
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				s := c.accept()
				c.headers(s.id, false, ":status", "103", "link", "</a>")
				c.headers(s.id, false, ":status", "103", "link", "</b>")
				c.headers(s.id, false, ":status", "199")
				<-proceed
				c.answer(s, "ok")
				c.accept()
			})
		}
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(true)
		if !c.until(func() bool { return len(s.interim) == 3 || s.over() }) || s.over() {
			t.Fatalf("%d interim responses, then %s", len(s.interim), s.outcome())
		}
		close(proceed)
		c.want(s, "200")
		var got strings.Builder
		for _, fields := range s.interim {
			got.WriteString(valueOf(fields, ":status") + valueOf(fields, "link") + " ")
		}
		if got.String() != "103</a> 103</b> 199 " || valueOf(s.head, "link") != "" {
			t.Errorf("interim %s, final %v", got.String(), s.head)
		}
	})
}

// A client that waits for 100 (Continue) gets it, once, and also a final response for which
// the origin did not want the content. (Expect itself is not passed on, net/http consumes it.)
func TestHTTP2_Continue(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := h1Origin(t, func(c *peer) {
			for head, err := c.tryHead(); err == nil; head, err = c.tryHead() {
				if strings.Contains(head, " /no ") {
					c.send("HTTP/1.1 417 No\r\nDate: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				} else if got := (gotRequest{fields: parseFields(head)}); c.readContent(&got) == nil {
					c.send("HTTP/1.1 100 Continue\r\n\r\n" + ok200)
				}
			}
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				for s := c.accept(); s != nil; s = c.accept() {
					if valueOf(s.head, ":path") == "/no" {
						c.headers(s.id, true, ":status", "417")
						continue
					}
					c.headers(s.id, false, ":status", "100")
					c.until(s.over)
					c.answer(s, "ok")
				}
			})
		}
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(false, ":method", "POST", "expect", "100-continue", "content-length", "3")
		c.until(func() bool { return len(s.interim) > 0 || s.over() })
		if s.over() || valueOf(s.interim[0], ":status") != "100" {
			t.Fatalf("%v, %s", s.interim, s.outcome())
		}
		c.data(s.id, true, "abc")
		if c.want(s, "200"); s.body.String() != "ok" || len(s.interim) != 1 {
			t.Errorf("%q, interim %v", s.body.String(), s.interim)
		}
		c.want(c.begin(false, ":method", "POST", ":path", "/no", "expect", "100-continue", "content-length", "3"), "417")
	})
}

// Each piece of either direction is there before the other side sends the next.
func TestHTTP2_PingPong(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			rc := http.NewResponseController(w)
			rc.EnableFullDuplex()
			w.WriteHeader(200)
			rc.Flush()
			buf := make([]byte, 100)
			for {
				n, err := req.Body.Read(buf)
				fmt.Fprintf(w, "<%s>", buf[:n])
				if rc.Flush(); err != nil {
					return
				}
			}
		})
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(false, ":method", "POST")
		c.until(func() bool { return s.head != nil })
		for n := range 50 {
			piece := fmt.Sprint(n)
			s.body.Reset()
			c.data(s.id, false, piece)
			if !c.until(func() bool { return s.body.String() == "<"+piece+">" }) {
				t.Fatalf("piece %d: %v, %q", n, c.gone, s.body.String())
			}
		}
		c.data(s.id, true, "")
		c.want(s, "200")
	})
}

// Responses without content have none, and keep their Content-Length.
func TestHTTP2_NoContent(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		heads := map[string]string{"/head": "200", "/204": "204", "/304": "304", "/empty": "200"}
		addr, roots := h1Origin(t, func(c *peer) {
			for head, err := c.tryHead(); err == nil; head, err = c.tryHead() {
				path := strings.Fields(head)[1]
				length := map[string]string{"/head": "Content-Length: 5\r\n", "/304": "Content-Length: 5\r\n", "/empty": "Content-Length: 0\r\n"}[path]
				c.send("HTTP/1.1 " + heads[path] + " X\r\nDate: x\r\n" + length + "\r\n")
			}
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				for s := c.accept(); s != nil; s = c.accept() {
					path := valueOf(s.head, ":path")
					fields := []string{":status", heads[path], "date", "x"}
					if length := map[string]string{"/head": "5", "/304": "5", "/empty": "0"}[path]; length != "" {
						fields = append(fields, "content-length", length)
					}
					c.headers(s.id, true, fields...)
				}
			})
		}
		c := intercept(t, p, addr, roots).h2()
		for path, status := range heads {
			method := "GET"
			if path == "/head" {
				method = "HEAD"
			}
			s := c.get(":path", path, ":method", method)
			c.want(s, status)
			if want := map[string]string{"/head": "5", "/304": "5", "/empty": "0"}[path]; valueOf(s.head, "content-length") != want || s.body.Len() > 0 {
				t.Errorf("%s: content-length %q, %d bytes", path, valueOf(s.head, "content-length"), s.body.Len())
			}
		}
	})
}

// A response that ends with its header, as a gRPC error does, is passed on as that: not with
// an empty DATA frame, and without a length that nobody announced. A hook that sees its end may
// take its time.
func TestHTTP2_OnlyHeader(t *testing.T) {
	addr, roots := h2Origin(t, func(c *h2peer) {
		for s := c.accept(); s != nil; s = c.accept() {
			c.headers(s.id, true, ":status", "200", "date", "x", "grpc-status", "12")
		}
	})
	slow := mitm.OnDone(func(*mitm.Flow) { time.Sleep(5 * time.Millisecond) })
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Hooks = append(p.Hooks, slow)
		c := intercept(t, p, addr, roots).h2()
		for range 10 {
			s := c.begin(false, ":method", "POST", "te", "trailers")
			c.data(s.id, true, "abc")
			c.want(s, "200")
			if valueOf(s.head, "grpc-status") != "12" || valueOf(s.head, "content-length") != "" || s.frames > 0 {
				t.Errorf("%v and %d DATA frames", s.head, s.frames)
			}
		}
	})
}

// Many streams at once, each with content of its own both ways.
func TestHTTP2_ManyStreams(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		const streams, size = 200, 10_000
		arrived := make(chan struct{}, streams)
		all := make(chan struct{})
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			arrived <- struct{}{}
			<-all
			b, err := io.ReadAll(req.Body)
			if err != nil {
				t.Errorf("%s: %v", req.URL, err)
			}
			w.Write(b)
		})
		c := intercept(t, p, addr, roots).h2()
		c.until(func() bool { return c.settings[settingMaxStreams] > 0 })
		n := min(streams, int(c.settings[settingMaxStreams]))
		var open []*h2stream
		for range n {
			open = append(open, c.begin(false, ":method", "POST", "content-length", fmt.Sprint(size)))
		}
		for range n {
			receive(t, arrived)
		}
		close(all)
		content := func(s *h2stream) string { return strings.Repeat(fmt.Sprintf("%9d ", s.id), size/10) }
		for _, s := range open {
			c.until(func() bool { return c.window >= size })
			c.data(s.id, true, content(s))
		}
		for _, s := range open {
			if c.want(s, "200"); s.body.String() != content(s) {
				t.Errorf("stream %d: %d bytes of something else", s.id, s.body.Len())
			}
		}
	})
}

// Hooks see and change HTTP/2 messages as they do those of HTTP/1.
func TestHTTP2_Hooks(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			if req.Proto != "HTTP/2.0" || req.ProtoMajor != 2 || req.TLS == nil || req.TLS.NegotiatedProtocol != "h2" {
				t.Errorf("request: %s, TLS %v", req.Proto, req.TLS)
			}
			if req.URL.Scheme != "https" || req.URL.Hostname() != "example.com" || req.URL.RequestURI() != "/a?q" || req.Host != "example.com" || req.Header.Get("X-Client") != "1" {
				t.Errorf("request: %s at %s, %v", req.URL, req.Host, req.Header)
			}
			b, err := io.ReadAll(req.Body)
			req.Body = io.NopCloser(strings.NewReader(strings.ToUpper(string(b))))
			req.Header.Set("X-Hook", "1")
			req.Header.Del("X-Client")
			return nil, err
		}), mitm.OnResponse(func(res *http.Response) error {
			if res.ProtoMajor != version || res.StatusCode != 200 || res.TLS == nil {
				t.Errorf("response: %s %s, TLS %v", res.Proto, res.Status, res.TLS)
			}
			b, err := io.ReadAll(res.Body)
			res.Body, res.ContentLength = io.NopCloser(strings.NewReader("changed "+string(b))), int64(len("changed ")+len(b))
			res.StatusCode = 201
			res.Header.Set("X-Hook", "2")
			return err
		}))
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(false, ":method", "POST", ":path", "/a?q", "x-client", "1", "content-length", "3")
		c.data(s.id, true, "abc")
		if c.want(s, "201"); s.body.String() != "changed ok" || valueOf(s.head, "x-hook") != "2" {
			t.Errorf("%v %q", s.head, s.body.String())
		}
		got := receive(t, seen)
		if got.content != "ABC" || got.path != "/a?q" || valueOf(got.fields, "x-hook")+valueOf(got.fields, "x-client") != "1" {
			t.Errorf("the origin got %+v", got)
		}
		f := nextFlow(t, flows)
		if f.Err != nil || f.Status != 201 || f.Method != "POST" || f.URL != "https://example.com/a?q" || f.Sent() != 3 || f.Received() != int64(len("changed ok")) {
			t.Errorf("flow: %v, status %d, %s %s, %d and %d bytes", f.Err, f.Status, f.Method, f.URL, f.Sent(), f.Received())
		}
	})
}

// Hooks can answer without an origin, with trailers, and what goes wrong in them is a 502.
func TestHTTP2_HookAnswers(t *testing.T) {
	var log records
	done, flows := doneHook()
	p := &mitm.Proxy{Logger: log.logger(), Hooks: []mitm.Hook{done, mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		switch req.URL.Path {
		case "/panic":
			panic("oops")
		case "/error":
			return nil, errors.New("no")
		case "/abort":
			return nil, http.ErrAbortHandler
		case "/late":
			return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader(strings.Repeat("x", 1<<20)), panicReader{}))}, nil
		}
		res := text(200, "made up")
		res.Trailer = http.Header{"X-Sum": {"1"}}
		return res, nil
	})}}
	addr, roots := h2Origin(t, func(c *h2peer) {
		if c.accept() != nil {
			t.Error("the origin was asked")
		}
	})
	c := intercept(t, p, addr, roots).h2()
	for path, outcome := range map[string]string{"/": "200", "/panic": "502", "/error": "502", "/abort": "reset", "/late": "cut 200"} {
		s := c.get(":path", path)
		if c.want(s, outcome); path == "/" && (s.body.String() != "made up" || valueOf(s.trailer, "x-sum") != "1") {
			t.Errorf("%q, trailer %v", s.body.String(), s.trailer)
		}
		if f := nextFlow(t, flows); (f.Err == nil) != (path == "/") {
			t.Errorf("%s: flow %v", path, f.Err)
		}
	}
	if n := log.count(); n != 2 {
		t.Errorf("%d log records for 2 panics", n)
	}
}

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("late") }

// HTTP/2 in the clear is read, too, where the client begins it with its preface.
func TestHTTP2_PriorKnowledge(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		seen := make(chan gotRequest, 4)
		addr := origin(t, func(c *peer) {
			newH2Peer(t, c.Conn, false).serveAll(seen)
		})
		i := newInterception(t, p, nil)
		nc := dial(t, start(t, i.proxy))
		tunnel(nc, addr)
		c := newH2Peer(t, nc.Conn, true)
		c.want(c.get(":scheme", "http", ":authority", addr, ":path", "/a"), "200")
		if got := receive(t, seen); got.path != "/a" || got.host != addr {
			t.Errorf("the origin got %+v", got)
		}
	})
}

// serveAll reports all requests and answers them.
func (p *h2peer) serveAll(seen chan gotRequest) {
	p.report(seen, func(s *h2stream) { p.answer(s, "ok") })
}

// A client that can do both is given what the origin chose.
func TestHTTP2_OriginChooses(t *testing.T) {
	for version, want := range map[int]string{1: "http/1.1", 2: "h2"} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) { fmt.Fprint(w, req.Proto) })
			i := intercept(t, p, addr, roots)
			for range 2 { // not known, and known
				if got := i.tls("h2", "http/1.1").ConnectionState().NegotiatedProtocol; got != want {
					t.Errorf("the client got %q, the origin speaks %s", got, want)
				}
			}
			c := newPeer(t, i.tls("http/1.1"))
			c.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
			if res, body := c.response("GET"); res.StatusCode != 200 || body != "HTTP/1.1" {
				t.Errorf("%s %q", res.Status, body)
			}
		})
	}
}
