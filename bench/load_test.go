package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
)

// answering returns the way to a server that gives one answer to whatever comes.
func answering(t *testing.T, answer string) way {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			nc.Read(make([]byte, 4096))
			io.WriteString(nc, answer)
			nc.Close()
		}
	}()
	return way{Dial: l.Addr().String(), Authority: l.Addr().String()}
}

// Only the right answer counts, however it is framed.
func TestAnswers(t *testing.T) {
	good := string(patternAt(0, small))
	bad := good[:small-1] + "!"
	for _, test := range []struct {
		name, answer string
		right        bool
	}{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + good, true},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + good[:64] + "\r\n40;x=y\r\n" + good[64:] + "\r\n0\r\nT: 1\r\n\r\n", true},
		{"end", "HTTP/1.1 200 OK\r\n\r\n" + good, true},
		{"status", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 128\r\n\r\n" + good, false},
		{"content", "HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + bad, false},
		{"short", "HTTP/1.1 200 OK\r\nContent-Length: 127\r\n\r\n" + good[:127], false},
		{"long", "HTTP/1.1 200 OK\r\nContent-Length: 129\r\n\r\n" + string(patternAt(0, small+1)), false},
		{"cut", "HTTP/1.1 200 OK\r\nContent-Length: 128\r\n\r\n" + good[:100], false},
		{"cut chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80\r\n" + good[:100], false},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n80\r\n" + good + "\r\n", false},
		{"nothing", "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := &job{Kind: exchanges, Conns: 1, Size: small, Way: answering(t, test.answer)}
			g := newGenerator(j)
			g.each(1, client.open)
			if err := g.result().Error; (err == "") != test.right {
				t.Errorf("error %q", err)
			}
			g.clients[0].close()
		})
	}
}

// The pattern is the same in pieces of any size, and a byte that is missing shows.
func TestPattern(t *testing.T) {
	const n = 3 * rawBuffer
	var b bytes.Buffer
	if err := writePattern(&b, n); err != nil {
		t.Fatal(err)
	}
	all := b.Bytes()
	for _, size := range []int{1000, rawBuffer} {
		if got, err := checkPattern(bytes.NewReader(all), -1, make([]byte, size)); got != n || err != nil {
			t.Errorf("%d bytes, %v", got, err)
		}
	}
	for _, at := range []int{0, 1000, n - 1000} {
		damaged := append(bytes.Clone(all[:at]), all[at+1:]...)
		if _, err := checkPattern(bytes.NewReader(damaged), -1, make([]byte, 1000)); err == nil {
			t.Errorf("byte %d is not missed", at)
		}
	}
}

func TestHead(t *testing.T) {
	for text, want := range map[string]head{
		"HTTP/1.1 200 OK\r\ncontent-LENGTH:  7\r\n\r\n":                  {first: "HTTP/1.1 200 OK", length: 7},
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n":           {first: "GET / HTTP/1.1", length: chunked},
		"GET / HTTP/1.1\r\nConnection: Close\r\nContent-Type: x\r\n\r\n": {first: "GET / HTTP/1.1", length: unknown, closing: true},
	} {
		if h, err := readHead(bufio.NewReader(strings.NewReader(text))); h != want || err != nil {
			t.Errorf("%q: %+v, %v", text, h, err)
		}
	}
}
