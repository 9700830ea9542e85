package mitm_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/mitm"
)

// Rules about the framing and the content of requests.

// noWay is a DialFunc that must not be called.
func noWay(t *testing.T) mitm.DialFunc {
	return func(_ context.Context, _, addr string) (net.Conn, error) {
		t.Errorf("dialled %s", addr)
		return nil, errors.New("nothing is to be dialled")
	}
}

// dechunk returns the content of text and, behind a bar, its trailer section; text must
// have nothing else.
func dechunk(t *testing.T, text string) string {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(text))
	content, err := io.ReadAll(httputil.NewChunkedReader(r))
	if err != nil {
		t.Errorf("chunks %q: %v", text, err)
		return text
	}
	trailers, _ := io.ReadAll(r)
	fields, more, ok := strings.Cut("\r\n"+string(trailers), "\r\n\r\n")
	if !ok || more != "" {
		t.Errorf("chunks %q: no end, or more than one", text)
	}
	if fields != "" {
		fields = fields[2:] + "\r\n"
	}
	return string(content) + "|" + fields
}

// post is a POST request with the given framing fields and content.
func post(fields, content string) string {
	return "POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n" + fields + "\r\n" + content
}

// posted is what the origin gets.
func posted(fields, content string) string {
	return "POST / HTTP/1.1\r\nHost: ORIGIN\r\n" + fields + "\r\n" + content
}

func refusedPosts(t *testing.T, status int, table [][2]string) {
	rows := make([]string, len(table))
	for i, row := range table {
		rows[i] = strings.ReplaceAll(post(row[0], row[1]), "ORIGIN", "o.test")
	}
	refusedTable(t, status, rows)
}

func TestR16_TransferEncoding(t *testing.T) {
	const none = "0\r\n\r\n"
	refusedPosts(t, 501, [][2]string{
		{"Transfer-Encoding: gzip, chunked\r\n", none},
		{"Transfer-Encoding: identity\r\n", none},
		{"Transfer-Encoding: xchunked\r\n", none},
		{"Transfer-Encoding: chunked;a=b\r\n", none},
		{"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", none},
	})
	refusedPosts(t, 400, [][2]string{
		{"Transfer-Encoding: chunked, chunked\r\n", none},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", none},
		{"Transfer-Encoding: chunked, identity\r\n", none},
		{"Transfer-Encoding:\r\n", none},
		{"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", none},
		{"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n", none},
		{"Transfer-Encoding : chunked\r\n", none},
		{"Transfer-Encoding: \x0bchunked\r\n", none},
		{"Transfer-Encoding:\r\n chunked\r\n", none},
	})
	refusedTable(t, 400, []string{"POST http://o.test/ HTTP/1.0\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"})
}

// However it was spelled, the origin sees one plain field.
func TestR16_OneSpelling(t *testing.T) {
	want := posted("transfer-ENCODING: chunked\r\nA: b\r\n", "2\r\nab\r\n0\r\n\r\n")
	for _, value := range []string{"chunked", " chunked", "\tchunked", " CHUNKED", " chunked \t", " , chunked", " chunked,"} {
		requestTable(t, [][2]string{{post("transfer-ENCODING:"+value+"\r\nA: b\r\n", "2\r\nab\r\n0\r\n\r\n"), want}})
	}
}

func TestR17_BothLengthAndTE(t *testing.T) {
	refusedPosts(t, 400, [][2]string{
		{"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"},
		{"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"},
		{"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"},
	})
}

func TestR17_BadLength(t *testing.T) {
	for _, value := range []string{"", " ", "x", "+2", "-2", "2 2", "2,3", "2;", "0x2", "2.0", "1e1", "99999999999999999999", "2\r\nContent-Length: 3", "2\r\nContent-Length:"} {
		refusedPosts(t, 400, [][2]string{{"Content-Length: " + value + "\r\n", "ab"}})
	}
}

// A request that ends early gets no end towards the origin either, and is not answered
// as if it were whole.
func TestR17_EarlyEnd(t *testing.T) {
	for _, tt := range [][2]string{
		{"Content-Length: 10\r\n", "12345"},
		{"Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n"},
		{"Transfer-Encoding: chunked\r\n", "5\r\n123"},
		{"Transfer-Encoding: chunked\r\n", "5\r\n12345\r\n0\r\n"},
	} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			received, failed := make(chan string, 1), make(chan error, 1)
			addr := origin(t, func(c *peer) {
				got, err := c.rest()
				received <- got
				failed <- err
			})
			c := dial(t, start(t, p))
			c.send(strings.ReplaceAll(post(tt[0], tt[1]), "ORIGIN", addr))
			c.Conn.(*net.TCPConn).CloseWrite()
			if res, _ := c.response("POST"); res.StatusCode != 400 || !res.Close {
				t.Errorf("%q: %s, close %v", tt, res.Status, res.Close)
			}
			got, err := <-received, <-failed
			if err == nil {
				t.Errorf("%q: the origin's connection ended in order", tt)
			}
			if strings.HasSuffix(got, "0\r\n\r\n") || strings.HasSuffix(got, "1234567890") {
				t.Errorf("%q: the origin got %q", tt, got)
			}
		})
	}
}

func TestR18_ContentLength(t *testing.T) {
	requestTable(t, [][2]string{
		{post("Content-Length: 0\r\n", ""), posted("Content-Length: 0\r\n", "")},
		{post("", ""), posted("", "")},
		{post("content-length: 2\r\n", "ab"), posted("content-length: 2\r\n", "ab")},
		{post("Content-Length:2\r\n", "ab"), posted("Content-Length: 2\r\n", "ab")},
		{post("Content-Length: \t2 \r\n", "ab"), posted("Content-Length: 2\r\n", "ab")},
		{post("Content-Length: 002\r\n", "ab"), posted("Content-Length: 2\r\n", "ab")},
		{post("Content-Length: 2, 2\r\n", "ab"), posted("Content-Length: 2\r\n", "ab")},
		{post("Content-Length: 2\r\nA: b\r\ncontent-length: 02\r\n", "ab"), posted("Content-Length: 2\r\nA: b\r\n", "ab")},
	})
}

var badChunks = []string{
	"5 \r\nhello\r\n0\r\n\r\n", "+5\r\nhello\r\n0\r\n\r\n", "0x5\r\nhello\r\n0\r\n\r\n", "\r\nhello\r\n0\r\n\r\n",
	"5\nhello\r\n0\r\n\r\n", "5;a\nhello\r\n0\r\n\r\n", "5;\rb\r\nhello\r\n0\r\n\r\n", "5\r\nhello0\r\n\r\n",
	"5\r\nhello!\r\n0\r\n\r\n", "5\r\nhello\n0\r\n\r\n", "5\r\nhello\r\n0\n\n", "5\r\nhello\r\n0\r\nA : b\r\n\r\n",
	"5\r\nhello\r\n0\r\n A: b\r\n\r\n", "5\r\nhello\r\n0\r\nA: \x00\r\n\r\n", "10000000000000005\r\nhello\r\n0\r\n\r\n",
	"5;" + strings.Repeat("x", 5000) + "\r\nhello\r\n0\r\n\r\n",
	strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 40) + "0\r\n\r\n",
}

// wantNoEnd fails the test unless the client gets the status and what reaches an origin
// lacks the last chunk.
func wantNoEnd(t *testing.T, p *mitm.Proxy, content string, status int) {
	received := make(chan string, 4)
	addr := origin(t, func(c *peer) {
		got, err := c.rest()
		if err == nil && got != "" {
			got += "[ended in order]"
		}
		received <- got
	})
	var dials atomic.Int32 // none if the request is refused in time
	p.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, to)
	}
	c := dial(t, start(t, p))
	c.send(strings.ReplaceAll(post("Transfer-Encoding: chunked\r\n", content), "ORIGIN", addr))
	if res, body := c.response("POST"); res.StatusCode != status || !res.Close {
		t.Errorf("%.40q: %s, close %v: %s", content, res.Status, res.Close, body)
	}
	c.closed()
	for range dials.Load() {
		if got := <-received; strings.Contains(got, "0\r\n\r\n") || strings.Contains(got, "[ended in order]") {
			t.Errorf("%.40q: the origin got %q", content, got)
		}
	}
}

func TestR19_BadChunks(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, content := range badChunks {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				wantNoEnd(t, &mitm.Proxy{Hooks: p.Hooks}, content, 400)
			})
		}
	})
}

// The same when the head is on its way already.
func TestR19_BadChunkLater(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		heads, ends := make(chan string, 1), make(chan string, 1)
		addr := origin(t, func(c *peer) {
			heads <- c.head() + c.read(len("5\r\nhello\r\n"))
			rest, err := c.rest()
			if err == nil {
				rest += "[ended in order]"
			}
			ends <- rest
		})
		c := dial(t, start(t, p))
		c.send(strings.ReplaceAll(post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"), "ORIGIN", addr))
		<-heads
		c.send("5\nworld\r\n0\r\n\r\n")
		c.wantStatus(400)
		c.closed()
		if rest := <-ends; rest != "" {
			t.Errorf("the origin got %q more", rest)
		}
	})
}

func TestR19_Extensions(t *testing.T) {
	requestTable(t, [][2]string{
		{
			post("Transfer-Encoding: chunked\r\n", "5;a=b;c=\"d;e\"\r\nhello\r\n000;f\r\n\r\n"),
			posted("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
		}, {
			post("Transfer-Encoding: chunked\r\n", "0000A \t;a\r\n0123456789\r\n0\r\n\r\n"),
			posted("Transfer-Encoding: chunked\r\n", "a\r\n0123456789\r\n0\r\n\r\n"),
		},
	})
}

func TestR20_Trailers(t *testing.T) {
	te := "Transfer-Encoding: chunked\r\n"
	announced := te + "Trailer: Digest, x-END\r\n"
	for _, fields := range []string{te, announced} {
		requestTable(t, [][2]string{
			{
				post(fields, "2\r\nab\r\n0\r\nDigest: x\r\nx-END:  y\r\nx-END: z\r\n\r\n"),
				posted(fields, "2\r\nab\r\n0\r\nDigest: x\r\nx-END:  y\r\nx-END: z\r\n\r\n"),
			}, {
				post(fields, "0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: x\r\nAuthorization: x\r\nCookie: x\r\n"+
					"Proxy-Authorization: x\r\nConnection: close\r\nTE: x\r\nContent-Type: x\r\nMax-Forwards: 1\r\nDigest: x\r\n\r\n"),
				posted(fields, "0\r\nDigest: x\r\n\r\n"),
			}, {
				post(fields, "0\r\nHost: x\r\n\r\n"), posted(fields, "0\r\n\r\n"),
			},
		})
	}
}

func TestR20_TrailerLimits(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, trailers := range []string{
			strings.Repeat("a: b\r\n", 21), "a: " + strings.Repeat("x", 1000) + "\r\n", strings.Repeat("Host: x\r\n", 200),
		} {
			wantNoEnd(t, &mitm.Proxy{Hooks: p.Hooks, MaxHeaderBytes: 1000, MaxHeaderFields: 20}, "2\r\nab\r\n0\r\n"+trailers+"\r\n", 400)
		}
	})
}

// Content belongs to the request whatever its method: it is never the next request.
func TestR36_ContentOfAnyMethod(t *testing.T) {
	smuggled := "GET /next HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, method := range []string{"GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "PATCH", "UNKNOWN"} {
		head := " / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 31\r\n\r\n"
		chunked := " / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n"
		sent := func(head string) string { return method + strings.Replace(head, " /", " http://ORIGIN/", 1) }
		requestTable(t, [][2]string{
			{sent(head) + smuggled, method + head + smuggled},
			{sent(chunked) + "1f\r\n" + smuggled + "\r\n0\r\n\r\n", method + chunked + "1f\r\n" + smuggled + "\r\n0\r\n\r\n"},
		})
	}
}

// What a request is does not change while its content goes through the same memory.
func TestR36_HeadWithContent(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		content := strings.Repeat("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n", 5000)
		answer := "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 12345\r\n\r\n"
		addr := origin(t, func(c *peer) {
			for {
				if _, err := c.tryHead(); err != nil {
					return
				}
				c.read(len(content))
				c.send(answer)
			}
		})
		c := dial(t, start(t, p))
		for range 2 {
			c.send("HEAD http://" + addr + "/ HTTP/1.1\r\nHost: h\r\nContent-Length: " + strconv.Itoa(len(content)) + "\r\n\r\n")
			c.send(content)
			if got := c.head(); got != answer {
				t.Errorf("got %q", got)
			}
		}
	})
}
