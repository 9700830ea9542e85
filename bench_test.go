package mitm_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// headEnd is what the head of a message ends with.
const headEnd = "\r\n\r\n"

// fixedOrigin answers every request, which must end with end, and have that nowhere else,
// with a response of size bytes of content. It allocates nothing per request, so that a
// benchmark counts the proxy's allocations alone.
func fixedOrigin(tb testing.TB, end string, size int) (addr string) {
	response := fixedResponse(size)
	return origin(tb, func(c *peer) {
		c.SetDeadline(time.Time{})
		answerEach(c.Conn, end, response)
	})
}

func fixedResponse(size int) []byte {
	return append([]byte("HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: "+
		strconv.Itoa(size)+headEnd), bytes.Repeat([]byte("x"), size)...)
}

func answerEach(nc net.Conn, end string, response []byte) {
	buf := make([]byte, 16<<10)
	for n := 0; ; {
		if n == len(buf) {
			n = copy(buf, buf[n-len(end):])
		}
		m, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		if n += m; bytes.HasSuffix(buf[:n], []byte(end)) {
			n = 0
			if _, err := nc.Write(response); err != nil {
				return
			}
		}
	}
}

// benchConn connects to addr. Unlike that of dial, the connection has no deadline.
func benchConn(tb testing.TB, addr string) net.Conn {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { nc.Close() })
	return nc
}

// benchRequest has what clients of a proxy send, where target is in absolute-form.
func benchRequest(target, host string) []byte {
	return []byte("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: bench\r\nAccept: */*\r\nConnection: keep-alive" + headEnd)
}

// exchanges sends the same request again and again, and reads the whole response to each.
func exchanges(b *testing.B, nc net.Conn, request []byte) {
	buf := make([]byte, 64<<10)
	want := exchange(b, nc, request, buf, 0) // the length of the whole response
	b.ReportAllocs()
	for b.Loop() {
		exchange(b, nc, request, buf, want)
	}
}

// exchange writes a request and reads want bytes; 0 reads one response and returns its
// length.
func exchange(b testing.TB, nc net.Conn, request, buf []byte, want int) int {
	if _, err := nc.Write(request); err != nil {
		b.Fatal(err)
	}
	got, end := 0, 0
	for got < want || want == 0 {
		n, err := nc.Read(buf[min(got, len(buf)/2):])
		if err != nil {
			b.Fatal(err)
		}
		got += n
		if want == 0 {
			if end = bytes.Index(buf[:got], []byte("\r\n\r\n")); end < 0 {
				continue
			}
			var size int
			length := bytes.Index(buf[:end], []byte("Content-Length: "))
			fmt.Sscan(string(buf[length+len("Content-Length: "):end]), &size)
			want = end + 4 + size
		}
	}
	return want
}

// One small request after the other on a connection that stays open.
func BenchmarkExchange(b *testing.B) {
	addr := fixedOrigin(b, headEnd, 128)
	absolute, asOrigin := benchRequest("http://"+addr+"/path?query", addr), benchRequest("/path?query", addr)
	b.Run("explicit", func(b *testing.B) {
		exchanges(b, benchConn(b, start(b, &mitm.Proxy{})), absolute)
	})
	b.Run("done", func(b *testing.B) {
		done := mitm.OnDone(func(*mitm.Flow) {})
		exchanges(b, benchConn(b, start(b, &mitm.Proxy{Hooks: []mitm.Hook{done}})), absolute)
	})
	b.Run("hooks", func(b *testing.B) {
		exchanges(b, benchConn(b, start(b, &mitm.Proxy{Hooks: settingHooks()})), absolute)
	})
	b.Run("reverse", func(b *testing.B) {
		exchanges(b, benchConn(b, start(b, &mitm.Proxy{Mode: reverseTo(addr)})), asOrigin)
	})
	b.Run("socks5", func(b *testing.B) {
		c := socksTo(b, start(b, &mitm.Proxy{}), addr, "")
		c.SetDeadline(time.Time{})
		exchanges(b, c.Conn, asOrigin)
	})
}

// settingHooks set one field each.
func settingHooks() []mitm.Hook {
	return []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			req.Header.Set("X-Request", "1")
			return nil, nil
		}),
		mitm.OnResponse(func(res *http.Response) error {
			res.Header.Set("X-Response", "1")
			return nil
		}),
	}
}

func BenchmarkContent(b *testing.B) {
	for _, size := range []int{64 << 10, 16 << 20} {
		b.Run(strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
			addr := fixedOrigin(b, headEnd, size)
			b.SetBytes(int64(size))
			exchanges(b, benchConn(b, start(b, &mitm.Proxy{})), benchRequest("http://"+addr+"/", addr))
		})
	}
}

// Requests with content, as a form or a call of an API has.
func BenchmarkUpload(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(strconv.Itoa(size>>10)+"KiB", func(b *testing.B) {
			const end = "the end"
			addr := fixedOrigin(b, end, 128)
			content := strings.Repeat("x", size-len(end)) + end
			request := fmt.Sprintf("POST http://%s/ HTTP/1.1\r\nHost: %[1]s\r\nContent-Length: %d%s%s", addr, size, headEnd, content)
			b.SetBytes(int64(size))
			exchanges(b, benchConn(b, start(b, &mitm.Proxy{})), []byte(request))
		})
	}
}

// From an origin's event to its client, while the response goes on. The origin sends the
// next event when it is asked to, and not before.
func BenchmarkEvents(b *testing.B) {
	next := make(chan bool)
	const event = "data: 0123456789\n\n"
	addr := origin(b, func(c *peer) {
		c.head()
		c.SetDeadline(time.Time{})
		io.WriteString(c.Conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"+headEnd)
		for range next {
			io.WriteString(c.Conn, "12\r\n"+event+"\r\n")
		}
	})
	defer close(next)
	nc := benchConn(b, start(b, &mitm.Proxy{}))
	nc.Write(benchRequest("http://"+addr+"/", addr))
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, len(event))
	b.ReportAllocs()
	for b.Loop() {
		next <- true
		if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != event {
			b.Fatalf("%q, %v", buf, err)
		}
	}
}

func BenchmarkTunnel(b *testing.B) {
	open := func(b *testing.B, proxy, addr string) net.Conn {
		nc := benchConn(b, proxy)
		tunnel(&peer{Conn: nc, t: b}, addr)
		return nc
	}
	addr := echo(b)
	b.Run("new", func(b *testing.B) {
		proxy := start(b, &mitm.Proxy{})
		b.ReportAllocs()
		for b.Loop() {
			open(b, proxy, addr).Close()
		}
	})
	b.Run("ping", func(b *testing.B) {
		nc, buf := open(b, start(b, &mitm.Proxy{}), addr), make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			nc.Write(buf)
			if _, err := io.ReadFull(nc, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bulk", func(b *testing.B) {
		flood := origin(b, func(c *peer) {
			c.SetDeadline(time.Time{})
			for buf := make([]byte, 256<<10); ; {
				if _, err := c.Conn.Write(buf); err != nil {
					return
				}
			}
		})
		nc, buf := open(b, start(b, &mitm.Proxy{}), flood), make([]byte, 1<<20)
		b.SetBytes(int64(len(buf)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := io.ReadFull(nc, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}
