package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// head is what origin and load need to know of a message's head.
type head struct {
	first   string // request or status line; valid until the next read
	length  int64  // of the content; -1 if chunked, -2 if the head does not say
	closing bool   // Connection: close
}

const (
	chunked = -1
	unknown = -2
)

// readHead reads the head of a message. It allocates once, for the first line.
func readHead(br *bufio.Reader) (h head, err error) {
	h.length = unknown
	for first := true; ; first = false {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return h, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case first:
			h.first = string(line)
		case len(line) == 0:
			return h, nil
		default:
			if err := h.field(line); err != nil {
				return h, err
			}
		}
	}
}

func (h *head) field(line []byte) (err error) {
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimSpace(value)
	switch {
	case len(name) == len("Content-Length") && bytes.EqualFold(name, []byte("Content-Length")):
		h.length, err = strconv.ParseInt(string(value), 10, 64)
	case len(name) == len("Transfer-Encoding") && bytes.EqualFold(name, []byte("Transfer-Encoding")):
		h.length = chunked
	case len(name) == len("Connection") && bytes.EqualFold(name, []byte("Connection")):
		h.closing = bytes.EqualFold(value, []byte("close"))
	}
	return err
}

// content reads the content of a message.
type content struct {
	br      *bufio.Reader
	left    int64 // of the content, or of the chunk
	chunked bool
	toEnd   bool // of the connection
	done    bool
}

func newContent(br *bufio.Reader, length int64) content {
	return content{br: br, left: max(length, 0), chunked: length == chunked, toEnd: length == unknown}
}

var errChunk = errors.New("bad chunk")

// Read implements io.Reader.
func (c *content) Read(p []byte) (n int, err error) {
	if c.toEnd {
		return c.br.Read(p)
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n, err = c.br.Read(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if c.left == 0 && c.chunked && err == nil {
		_, err = c.line()
	}
	return n, err
}

// next begins the next chunk. It returns io.EOF after the last.
func (c *content) next() error {
	if c.done || !c.chunked {
		return io.EOF
	}
	size, err := c.line()
	if err != nil {
		return err
	}
	size, _, _ = bytes.Cut(size, []byte(";"))
	if c.left, err = strconv.ParseInt(string(size), 16, 64); err != nil {
		return errChunk
	}
	if c.left > 0 {
		return nil
	}
	for c.done = true; ; { // trailer section
		if line, err := c.line(); err != nil || len(line) == 0 {
			return cmpErr(err, io.EOF)
		}
	}
}

func (c *content) line() ([]byte, error) {
	line, err := c.br.ReadSlice('\n')
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// cmpErr returns the first error that there is.
func cmpErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// period is after how many bytes the pattern repeats itself. It is prime, so that bytes which
// are left out or doubled show.
const period = 251

// patternBytes is content: what comes at offset i of a message is at i%period.
var patternBytes = func() []byte {
	p := make([]byte, 256<<10)
	for i := range p {
		p[i] = byte('0' + i%period%64)
	}
	return p
}()

// patternAt returns up to n bytes of content that begin at an offset.
func patternAt(offset, n int64) []byte {
	start := offset % period
	return patternBytes[start : start+min(n, int64(len(patternBytes))-period)]
}

// writePattern writes n bytes of content.
func writePattern(w io.Writer, n int64) error {
	for offset := int64(0); offset < n; {
		m, err := w.Write(patternAt(offset, n-offset))
		if err != nil {
			return err
		}
		offset += int64(m)
	}
	return nil
}

// checkPattern reads from r until its end or, if n is not negative, n bytes, and returns how
// many there were. It is an error if they are not what writePattern writes.
func checkPattern(r io.Reader, n int64, buf []byte) (offset int64, err error) {
	for n < 0 || offset < n {
		p := buf
		if n >= 0 {
			p = buf[:min(int64(len(buf)), n-offset)]
		}
		m, err := r.Read(p)
		if !bytes.Equal(p[:m], patternAt(offset, int64(m))) {
			return offset, fmt.Errorf("wrong content after byte %d", offset)
		}
		offset += int64(m)
		if err == io.EOF && n < 0 {
			return offset, nil
		}
		if err != nil {
			return offset, err
		}
	}
	return offset, nil
}
