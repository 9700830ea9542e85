package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// postSize is how long the content of a POST request is.
const postSize = 4 << 10

// exchanger has HTTP/1 exchanges on a connection, one after the other.
type exchanger struct {
	job     *job
	config  *tls.Config
	request []byte
	nc      net.Conn
	br      *bufio.Reader
	buf     []byte
	closing bool // the last response is the last on its connection
}

func newExchanger(j *job, method string) *exchanger {
	e := &exchanger{job: j, request: request(j, method, j.Way.Authority)}
	if j.Way.TLS {
		e.config = j.Way.config(j.Way.ServerName)
	}
	return e
}

// request returns the bytes of a request.
func request(j *job, method, authority string) []byte {
	target := "/" + strconv.FormatInt(j.Size, 10)
	if j.Kind == events {
		target = "/events"
	}
	if j.Way.Forward && !j.Way.TLS {
		target = "http://" + authority + target
	}
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench/1\r\nAccept: */*\r\n", method, target, authority)
	if method == "POST" {
		b = fmt.Appendf(b, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", postSize)
		return append(b, patternAt(0, postSize)...)
	}
	return append(b, "\r\n"...)
}

// open connects, and has a first exchange unless its content is long.
func (e *exchanger) open() error {
	if err := e.connect(); err != nil || e.job.Size >= bulkSize || e.job.Kind == events {
		return err
	}
	_, _, err := e.do()
	return err
}

func (e *exchanger) connect() (err error) {
	e.nc, err = e.job.Way.start(e.job.Way.Authority, e.config)
	if err != nil {
		return err
	}
	e.br = bufio.NewReaderSize(e.nc, 4<<10)
	return nil
}

func (e *exchanger) do() (int64, time.Duration, error) {
	begin := time.Now()
	body, err := e.send()
	if err != nil {
		return 0, 0, err
	}
	n, err := e.check(body)
	return n, time.Since(begin), err
}

// check reads the content of a response to its end.
func (e *exchanger) check(body content) (int64, error) {
	if e.buf == nil {
		e.buf = make([]byte, min(max(e.job.Size, 1<<10), rawBuffer))
	}
	n, err := checkPattern(&body, -1, e.buf)
	if err == nil && n != e.job.Size {
		err = fmt.Errorf("%w: %d bytes", errAnswer, n)
	}
	return n, err
}

// send sends the request and reads the head of the response.
func (e *exchanger) send() (content, error) {
	if _, err := e.nc.Write(e.request); err != nil {
		return content{}, err
	}
	return e.answer()
}

// answer reads the head of a response.
func (e *exchanger) answer() (content, error) {
	h, err := readHead(e.br)
	e.closing = h.closing
	body := newContent(e.br, h.length)
	if err == nil && !strings.HasPrefix(h.first, "HTTP/1.1 200") {
		why, _ := io.ReadAll(io.LimitReader(&body, 200))
		err = fmt.Errorf("%w: %s %q", errAnswer, h.first, why)
	}
	return body, err
}

func (e *exchanger) close() {
	if e.nc != nil {
		e.nc.Close()
	}
}

// eventReader reads server-sent events. What it measures is how old they are.
type eventReader struct {
	exchanger
	lines *bufio.Reader
	next  int64
}

func (r *eventReader) open() error {
	if err := r.exchanger.open(); err != nil {
		return err
	}
	body, err := r.send()
	r.lines = bufio.NewReader(&body)
	return err
}

func (r *eventReader) do() (int64, time.Duration, error) {
	line, err := r.lines.ReadString('\n')
	if err != nil {
		return 0, 0, err
	}
	age := time.Now().UnixNano()
	var number, sent int64
	if _, err := fmt.Sscanf(line, "data: %d %d\n", &number, &sent); err != nil || number != r.next {
		return 0, 0, fmt.Errorf("%w: event %q after %d", errAnswer, line, r.next-1)
	}
	r.next++
	_, err = r.lines.ReadString('\n')
	return int64(len(line)), time.Duration(age - sent), err
}

// handshaker makes a new TLS connection for each operation, with one exchange on it.
type handshaker struct {
	exchanger
	client, count int
	resumed       int64
}

func newHandshaker(j *job, i int) *handshaker {
	return &handshaker{exchanger: *newExchanger(j, "GET"), client: i}
}

// open has a first connection, after which certificates and sessions are known.
func (h *handshaker) open() error {
	_, _, err := h.do()
	return err
}

func (h *handshaker) do() (int64, time.Duration, error) {
	begin := time.Now()
	authority := h.job.Way.Authority
	if strings.Contains(authority, anyName) {
		authority = h.rename()
	}
	var err error
	if h.nc, err = h.job.Way.start(authority, h.config); err != nil {
		return 0, 0, err
	}
	defer h.nc.Close()
	h.br = bufio.NewReaderSize(h.nc, 4<<10)
	n, _, err := h.exchanger.do()
	if h.nc.(*tls.Conn).ConnectionState().DidResume {
		h.resumed++
	}
	return n, time.Since(begin), err
}

// anyName in an authority stands for a name that was never used before.
const anyName = "*"

// rename gives the origin another name, and returns its authority.
func (h *handshaker) rename() (authority string) {
	fresh := freshName(h.client, h.count)
	h.count++
	authority = strings.Replace(h.job.Way.Authority, anyName, fresh, 1)
	h.config.ServerName = strings.Replace(h.job.Way.ServerName, anyName, fresh, 1)
	h.request = request(h.job, "GET", authority)
	return authority
}

// freshName is the label of a name that one client asks for once.
func freshName(client, count int) string { return fmt.Sprintf("c%d-%d", client, count) }
