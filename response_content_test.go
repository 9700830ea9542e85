package mitm_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// Responses that have no content, whatever their fields say (RFC 9112, section 6.3). The
// framing fields of an answer to HEAD and of a 304 tell what the content would be.
func TestR17_NoContent(t *testing.T) {
	const length, te = "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, test := range []struct {
			method, status, fields string
			length                 bool // passed on
			reused                 bool // the origin connection
		}{
			{"HEAD", "200 OK", "", false, true},
			{"HEAD", "200 OK", length, true, true},
			{"HEAD", "200 OK", te, false, true},
			{"HEAD", "200 OK", te + length, false, false},
			{"HEAD", "404 Not Found", length, true, true},
			{"GET", "204 No Content", "", false, true},
			{"GET", "204 No Content", length, false, true},
			{"GET", "204 No Content", te, false, true},
			{"GET", "204 No Content", te + length, false, false},
			{"GET", "304 Not Modified", "", false, true},
			{"GET", "304 Not Modified", length, true, true},
			{"GET", "304 Not Modified", te, false, true},
		} {
			name := test.method + " " + test.status + " " + test.fields
			addr, seen := scripted(t, "HTTP/1.1 "+test.status+"\r\n"+test.fields+"\r\n", ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, test.method, "/a"))
			head := c.head()
			fields := fieldsOf(head)
			if !strings.HasPrefix(head, "HTTP/1.1 "+test.status) || fields["transfer-encoding"] != nil ||
				(fields["content-length"] != nil) != test.length || fields["connection"] != nil {
				t.Errorf("%s became %q", name, head)
			}
			wantSeen(t, seen, "1 "+test.method+" /a")
			second := "1 GET /b"
			if !test.reused {
				wantSeen(t, seen, "1 end")
				second = "2 GET /b"
			}
			c.send(headTo(addr, "GET", "/b"))
			c.wantStatus(200)
			wantSeen(t, seen, second)
		}
	})
}

// Content that must not be there is not the next response.
func TestR17_ContentAfterNoContent(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, test := range []struct{ method, response string }{
			{"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\n" + poison},
			{"GET", "HTTP/1.1 204 No Content\r\n\r\n" + poison},
			{"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 44\r\n\r\n" + poison},
			{"GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		} {
			addr, seen := scripted(t, test.response, ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, test.method, "/a"))
			c.head()
			wantSeen(t, seen, "1 "+test.method+" /a", "1 end")
			c.send(headTo(addr, "GET", "/b"))
			if got := c.head() + c.read(2); got != ok200 {
				t.Errorf("got %q", got)
			}
			wantSeen(t, seen, "2 GET /b")
		}
	})
}

// A response without framing fields ends with its connection, and says so.
func TestR17_CloseDelimited(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, seen := scripted(t, "HTTP/1.1 200 OK\r\n\r\nall of it"+thenClose)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		if head := c.head(); fieldsOf(head)["connection"] == nil {
			t.Errorf("head %q", head)
		}
		if got, err := c.rest(); got != "all of it" || err != nil {
			t.Errorf("content %q, %v", got, err)
		}
		wantSeen(t, seen, "1 GET /", "1 end")
	})
}

// Trailers pass, announced or not; fields that frame, route or authenticate do not.
func TestR20_ResponseTrailers(t *testing.T) {
	const sent = "x-Sum: 1\r\nContent-Length: 9\r\nX-B:  2\r\nTransfer-Encoding: chunked\r\nHost: x\r\n" +
		"Authorization: x\r\nSet-Cookie: a=b\r\nConnection: close\r\nContent-Type: x\r\nX-Sum: 3\r\n"
	const want = "x-Sum: 1\r\nX-B:  2\r\nX-Sum: 3\r\n"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, announcement := range []string{"", "Trailer: X-Sum, X-B\r\n", "Trailer: X-B\r\n", "Trailer: X-Absent\r\n"} {
			addr, seen := scripted(t, "HTTP/1.1 200 OK\r\n"+announcement+"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+sent+"\r\n", ok200)
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/a"))
			if head := c.head(); !strings.Contains(head, announcement) {
				t.Errorf("head %q", head)
			}
			if got := c.read(len("2\r\nok\r\n0\r\n")) + c.head(); got != "2\r\nok\r\n0\r\n"+want+"\r\n" {
				t.Errorf("%q: content %q", announcement, got)
			}
			c.send(headTo(addr, "GET", "/b"))
			c.wantStatus(200)
			wantSeen(t, seen, "1 GET /a", "1 GET /b")
		}
	})
}

// A hook that changes trailers, or the content before them.
func TestR20_ResponseTrailersHook(t *testing.T) {
	var seen http.Header
	set := mitm.OnResponse(func(res *http.Response) error {
		b, err := io.ReadAll(res.Body)
		seen = res.Trailer.Clone()
		res.Body, res.ContentLength = io.NopCloser(strings.NewReader(strings.ToUpper(string(b)))), -1
		res.Trailer.Set("X-Sum", "new")
		res.Trailer.Set("X-More", "more")
		res.Trailer.Set("Content-Length", "1")
		return err
	})
	addr, _ := scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-a: b\r\nX-SUM: old\r\n\r\n")
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{set}}))
	c.send(headTo(addr, "GET", "/"))
	c.head()
	if got := c.read(len("2\r\nOK\r\n0\r\n")) + c.head(); got != "2\r\nOK\r\n0\r\nX-a: b\r\nX-SUM: new\r\nX-More: more\r\n\r\n" {
		t.Errorf("got %q", got)
	}
	if seen.Get("X-A") != "b" || seen.Get("X-Sum") != "old" {
		t.Errorf("the hook saw %v", seen)
	}
}

// Trailers that are too many, too large or no fields make the response an incomplete one.
func TestR20_ResponseTrailerLimits(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.MaxHeaderBytes, p.MaxHeaderFields = 1<<10, 8
		proxy := start(t, p)
		for _, trailers := range []string{
			strings.Repeat("A: b\r\n", 9), strings.Repeat("A: "+strings.Repeat("x", 200)+"\r\n", 6),
			"A : b\r\n", "A: b\r\n c\r\n", "A: \x01\r\n", "A: b\n", "no field\r\n", ": b\r\n",
		} {
			addr, seen := scripted(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"+trailers+"\r\n")
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			c.head()
			if got, _ := c.rest(); got != "2\r\nok\r\n" {
				t.Errorf("%.20q: content %q", trailers, got)
			}
			wantSeen(t, seen, "1 GET /", "1 end")
		}
	})
}

func TestR28_Date(t *testing.T) {
	const given = "Mon, 23 Nov 2026 00:00:00 GMT"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, fields := range []string{"", "dAte:  " + given + "\r\n", "Date: nonsense\r\n"} {
			addr, _ := scripted(t, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n"+fields+"Content-Length: 2\r\n\r\nok")
			c := dial(t, proxy)
			before := time.Now().Truncate(time.Second)
			c.send(headTo(addr, "GET", "/"))
			if head := c.head(); fieldsOf(head)["date"] != nil {
				t.Errorf("1xx with a Date: %q", head)
			}
			head := c.head()
			if fields != "" && (!strings.Contains(head, fields) || len(fieldsOf(head)["date"]) != 1) {
				t.Errorf("%q became %q", fields, head)
			}
			if fields == "" {
				date, err := http.ParseTime(strings.Join(fieldsOf(head)["date"], "|"))
				if err != nil || date.Before(before) || date.After(time.Now()) {
					t.Errorf("Date: %v, %v", date, err)
				}
			}
		}
	})
}

// Set-Cookie lines and fields of any name keep their order, spelling and bytes.
func TestR11_ResponseFields(t *testing.T) {
	lines := []string{"Server: x", "set-cookie: a=b, c", "X-b:  2 ", "Set-Cookie: d", "x-B:3", "ETag: \xff", "X-Empty:", "set-cookie: e"}
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		response := "HTTP/1.1 200 Fine\r\n" + strings.Join(lines, "\r\n") + "\r\nDate: x\r\nContent-Length: 0\r\n\r\n"
		addr, _ := scripted(t, response)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		if got := c.head(); got != response {
			t.Errorf("got %q, want %q", got, response)
		}
	})
}

// Fields that concern the hop from the origin end here (RFC 9110, section 7.6.1).
func TestR30_ResponseHopByHop(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nConnection: X-Hop, Content-Length\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nConnection: x-two\r\n" +
		"Proxy-Connection: keep-alive\r\nTE: trailers\r\nX-Two: 2\r\nUpgrade: x\r\nX-End: 3\r\nContent-Length: 2\r\n\r\nok"
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := scripted(t, head)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "GET", "/"))
		fields := fieldsOf(c.head())
		var names []string
		for name := range fields {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := fmt.Sprint(names); got != "[content-length date x-end]" || c.read(2) != "ok" {
			t.Errorf("fields %s", got)
		}
	})
}
