package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"path"
	"strconv"
	"strings"
	"time"
)

// originConfig is what the origin is told.
type originConfig struct{ Pair pair }

// originPorts is where the origin listens, on 127.0.0.1.
type originPorts struct{ HTTP, TLS, HTTP2, Raw int }

// originRole is the server that everything is fetched from. It speaks HTTP/1 without
// net/http, so that it costs little.
func originRole(c *control) error {
	var config originConfig
	if err := c.receive(&config); err != nil {
		return err
	}
	certificate, err := config.Pair.tls()
	if err != nil {
		return err
	}
	var ports originPorts
	for _, s := range []struct {
		port  *int
		serve func(net.Listener) error
	}{
		{&ports.HTTP, each(serveHTTP1)},
		{&ports.TLS, each(overTLS(certificate, serveHTTP1))},
		{&ports.HTTP2, http2Origin{certificate}.serve},
		{&ports.Raw, each(serveRaw)},
	} {
		if *s.port, err = listen(s.serve); err != nil {
			return err
		}
	}
	if err := c.send(ports); err != nil {
		return err
	}
	return c.receive(new(any)) // until the end of the one that asked
}

// listen serves a port of its own.
func listen(serve func(net.Listener) error) (port int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	go serve(l)
	return l.Addr().(*net.TCPAddr).Port, nil
}

// each serves the connections of a listener, each in a goroutine.
func each(serve func(net.Conn)) func(net.Listener) error {
	return func(l net.Listener) error {
		for {
			nc, err := l.Accept()
			if err != nil {
				return err
			}
			go func() {
				defer nc.Close()
				serve(nc)
			}()
		}
	}
}

func overTLS(certificate tls.Certificate, serve func(net.Conn)) func(net.Conn) {
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}}
	return func(nc net.Conn) {
		tc := tls.Server(nc, config)
		if tc.Handshake() == nil {
			serve(tc)
			tc.CloseWrite()
		}
	}
}

// serveHTTP1 answers the requests of a connection.
func serveHTTP1(nc net.Conn) {
	o := http1Origin{nc: nc, br: bufio.NewReaderSize(nc, 8<<10), buf: make([]byte, 16<<10)}
	for o.exchange() == nil {
	}
}

type http1Origin struct {
	nc  net.Conn
	br  *bufio.Reader
	buf []byte // for content
	// The last response of known size, head and content.
	size     int64
	response []byte
}

// exchange answers a request. An error ends the connection.
func (o *http1Origin) exchange() error {
	h, err := readHead(o.br)
	if err != nil {
		return err
	}
	method, rest, _ := strings.Cut(h.first, " ")
	target, _, _ := strings.Cut(rest, " ")
	last := target[strings.LastIndexByte(target, '/')+1:]
	switch {
	case method == "POST":
		err = o.post(h, target)
	case last == "events":
		err = o.events()
	default:
		err = o.get(last)
	}
	if err == nil && h.closing {
		err = io.EOF
	}
	return err
}

const responseHead = "HTTP/1.1 200 OK\r\nDate: Mon, 23 Nov 2026 00:00:00 GMT\r\nServer: bench\r\nContent-Type: application/octet-stream\r\n"

// get answers with as many bytes of content as the path says; small ones in one write.
func (o *http1Origin) get(length string) error {
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil {
		return o.refuse("no such path")
	}
	if size != o.size || o.response == nil {
		o.size = size
		o.response = append(fmt.Appendf(nil, "%sContent-Length: %d\r\n\r\n", responseHead, size), patternAt(0, size)...)
	}
	if _, err := o.nc.Write(o.response); err != nil {
		return err
	}
	for offset := int64(len(patternAt(0, size))); offset < size; {
		n, err := o.nc.Write(patternAt(offset, size-offset))
		if err != nil {
			return err
		}
		offset += int64(n)
	}
	return nil
}

// post checks the content of a request, and answers like get.
func (o *http1Origin) post(h head, target string) error {
	body := newContent(o.br, max(h.length, chunked))
	if n, err := checkPattern(&body, -1, o.buf); err != nil || n != uploadSize(target) {
		return o.refuse(fmt.Sprintf("content of %d bytes: %v", n, err))
	}
	return o.get(path.Base(target))
}

// uploadSize returns how long the content of a POST request has to be: /4096/128 says it before
// the length of the answer.
func uploadSize(target string) int64 {
	if n, err := strconv.ParseInt(path.Base(path.Dir(target)), 10, 64); err == nil {
		return n
	}
	return postSize
}

func (o *http1Origin) refuse(why string) error {
	fmt.Fprintf(o.nc, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(why), why)
	return io.EOF
}

// eventInterval is how often server-sent events come.
const eventInterval = 5 * time.Millisecond

// events sends server-sent events until the client has gone. Each has its number and the
// time at which it was sent.
func (o *http1Origin) events() error {
	_, err := io.WriteString(o.nc, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n")
	for i := 0; err == nil; i++ {
		time.Sleep(eventInterval)
		event := fmt.Sprintf("data: %d %d\n\n", i, time.Now().UnixNano())
		_, err = fmt.Fprintf(o.nc, "%x\r\n%s\r\n", len(event), event)
	}
	return err
}
