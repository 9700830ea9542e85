package mitm_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	"example.com/mitm"
)

// fixedOrigin answers every request head, which must come without content, with a
// response of size bytes of content. It allocates nothing per request, so that a
// benchmark counts the proxy's allocations alone.
func fixedOrigin(tb testing.TB, size int) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	response := append([]byte("HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: "+
		strconv.Itoa(size)+"\r\n\r\n"), bytes.Repeat([]byte("x"), size)...)
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go answerHeads(nc, response)
		}
	}()
	return l.Addr().String()
}

func answerHeads(nc net.Conn, response []byte) {
	defer nc.Close()
	buf := make([]byte, 4096)
	for n := 0; ; {
		m, err := nc.Read(buf[n:])
		if err != nil {
			return
		}
		if n += m; bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
			n = 0
			if _, err := nc.Write(response); err != nil {
				return
			}
		}
	}
}

// exchanges runs b.N exchanges one after the other on one kept-alive connection.
func exchanges(b *testing.B, p *mitm.Proxy, size int) {
	addr := fixedOrigin(b, size)
	nc, err := net.Dial("tcp", start(b, p))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	request := []byte("GET http://" + addr + "/path?query HTTP/1.1\r\nHost: " + addr + "\r\nUser-Agent: bench\r\nAccept: */*\r\nProxy-Connection: keep-alive\r\n\r\n")
	buf := make([]byte, 64<<10)
	want := exchange(b, nc, request, buf, 0) // the length of the whole response
	b.SetBytes(int64(size))
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

func BenchmarkExchange(b *testing.B) {
	b.Run("plain", func(b *testing.B) { exchanges(b, &mitm.Proxy{}, 128) })
	b.Run("done", func(b *testing.B) {
		exchanges(b, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnDone(func(*mitm.Flow) {})}}, 128)
	})
	b.Run("hooks", func(b *testing.B) {
		exchanges(b, &mitm.Proxy{Hooks: settingHooks()}, 128)
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
		b.Run(strconv.Itoa(size>>10)+"KiB", func(b *testing.B) { exchanges(b, &mitm.Proxy{}, size) })
	}
}

func BenchmarkTunnel(b *testing.B) {
	addr := origin(b, func(c *peer) { io.Copy(c.Conn, c.r) })
	b.Run("new", func(b *testing.B) {
		proxy := start(b, &mitm.Proxy{})
		b.ReportAllocs()
		for b.Loop() {
			c := dial(b, proxy)
			c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
			c.head()
			c.Close()
		}
	})
	b.Run("ping", func(b *testing.B) {
		c := dial(b, start(b, &mitm.Proxy{}))
		c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.head()
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			c.Conn.Write(buf)
			if _, err := io.ReadFull(c.Conn, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// An exchange that nobody hooks allocates nothing; what two hooks need has a bound, their own
// two lists of values included.
func TestNoAllocations(t *testing.T) {
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	addr := fixedOrigin(t, 128)
	const hooked = 12
	for name, p := range map[string]*mitm.Proxy{
		"explicit": {}, "hooks": {Hooks: settingHooks()},
		"reverse": {Mode: reverseTo(addr)}, "hooks in reverse": {Mode: reverseTo(addr), Hooks: settingHooks()},
	} {
		bound := 1.0
		if len(p.Hooks) > 0 {
			bound = hooked + 1
		}
		nc, err := net.Dial("tcp", start(t, p))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		request := []byte("GET http://" + addr + "/path?query HTTP/1.1\r\nHost: " + addr + "\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n")
		buf := make([]byte, 4096)
		want := exchange(t, nc, request, buf, 0)
		if n := testing.AllocsPerRun(1000, func() { exchange(t, nc, request, buf, want) }); n >= bound {
			t.Errorf("%s: %v allocations for each exchange", name, n)
		}
	}
}
