package mitm

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http/httputil"
	"strings"
	"testing"
	"time"
)

// piecewise is a connection from which text arrives in pieces whose lengths are taken
// from sizes, again and again. After the text it is at its end.
type piecewise struct {
	net.Conn
	text  string
	sizes []byte
	reads int
}

func (c *piecewise) Read(p []byte) (int, error) {
	if c.text == "" {
		return 0, io.EOF
	}
	n := len(c.text)
	if len(c.sizes) > 0 {
		n = 1 + int(c.sizes[c.reads%len(c.sizes)])
	}
	c.reads++
	n = copy(p, c.text[:min(n, len(c.text))])
	c.text = c.text[n:]
	return n, nil
}

func (c *piecewise) SetReadDeadline(time.Time) error { return nil }

// Content is ready if the next piece of it, or its end, is there as a whole.
func TestBodyReady(t *testing.T) {
	for _, tt := range []struct {
		text string
		want bool
	}{
		{"", false},
		{"5", false},
		{"5\r\n", false},
		{"5\r\nh", true},
		{"05\r\n", false},
		{"05\r\nh", true}, // a size that begins with 0 is not that of the last chunk
		{"0005;a=b\r\nh", true},
		{"0", false},
		{"0\r\n", false},
		{"0\r\n\r", false},
		{"0\r\n\r\n", true},
		{"000\r\nA: b\r\n", false},
		{"000\r\nA: b\r\n\r\n", true},
		{"0;a=b\r\nA: b\r\n", false},
		{"0;a=b\r\nA: b\r\n\r\n", true},
	} {
		for _, before := range []string{"", "1\r\nx\r\n"} {
			s := newStream(&piecewise{text: before + tt.text})
			var b body
			b.start(s, &control{framing: framing{kind: chunked}}, time.Minute, headLimits{bytes: 100, fields: 3})
			s.fill(bufferSize)
			if before != "" {
				b.next()
			}
			if got := b.ready(); got != tt.want {
				t.Errorf("%q after %q: ready %v, want %v", tt.text, before, got, tt.want)
			}
			s.drop()
		}
	}
}

// written counts the writes to a connection from which text arrives.
type written struct {
	piecewise
	writes int
}

func (c *written) Write(p []byte) (int, error) {
	c.writes++
	return len(p), nil
}

func (c *written) SetWriteDeadline(time.Time) error { return nil }

// Small chunks go on together, however their sizes are spelled.
func TestPaddedChunksTogether(t *testing.T) {
	writes := map[string]int{}
	for _, chunk := range []string{"1\r\na\r\n", "1;\r\na\r\n", "01\r\na\r\n", "0001\r\na\r\n"} {
		conn := &written{piecewise: piecewise{text: strings.Repeat(chunk, 10000) + "0\r\n\r\n"}}
		s := newStream(conn)
		var b body
		var w sender
		b.start(s, &control{framing: framing{kind: chunked}}, time.Minute, headLimits{bytes: 100, fields: 3})
		w.start(s, b.framing, time.Minute)
		if err := w.send(&b); err != nil || b.count != 10000 {
			t.Errorf("%q: %d bytes, %v", chunk, b.count, err)
		}
		w.done()
		s.drop()
		writes[chunk] = conn.writes
	}
	for chunk, n := range writes {
		if plain := writes["1\r\na\r\n"]; n > 2*plain {
			t.Errorf("%q: %d writes, and %d of chunks without padding", chunk, n, plain)
		}
	}
}

// readBody reads text as content framed by f and returns what it holds, the trailer
// fields, and what is left on the stream.
func readBody(t *testing.T, text string, f framing, names string, sizes ...byte) (content, trailers, rest string, err error) {
	conn := &piecewise{text: text, sizes: sizes}
	s := newStream(conn)
	defer s.drop()
	var b body
	b.start(s, &control{framing: f, names: []byte(names)}, time.Minute, headLimits{bytes: 100, fields: 3})
	for err == nil {
		ready, reads := b.ready(), conn.reads
		var p []byte
		p, err = b.next()
		content += string(p)
		if ready && conn.reads != reads {
			t.Errorf("%q: ready, but next had to read", text)
		}
	}
	for _, f := range b.trailerFields() {
		trailers += string(f.line) + "\n"
	}
	if (err == io.EOF) != b.ended() {
		t.Errorf("%q: ended = %v after %v", text, b.ended(), err)
	}
	if b.count != int64(len(content)) {
		t.Errorf("%q: counted %d bytes of %d", text, b.count, len(content))
	}
	return content, trailers, string(s.buffered()) + conn.text, err
}

var chunkedTests = []struct {
	text, content, trailers, rest string
}{
	{"0\r\n\r\n", "", "", ""},
	{"0\r\n\r\nGET /", "", "", "GET /"},
	{"5\r\nhello\r\n0\r\n\r\n", "hello", "", ""},
	{"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nrest", "hello world", "", "rest"},
	{"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", "", ""},
	{"00005\r\nhello\r\n000\r\n\r\n", "hello", "", ""},
	{"5;a\r\nhello\r\n0;b=c;d=\"e;f\"\r\n\r\n", "hello", "", ""},
	{"5 ; a\r\nhello\r\n0\t;b\r\n\r\n", "hello", "", ""},
	{"2\r\n\r\n\r\n0\r\n\r\n", "\r\n", "", ""},
	{"0\r\nA: b\r\nC:d\r\n\r\nrest", "", "A: b\nC:d\n", "rest"},
	{"1\r\nx\r\n0\r\nContent-Length: 5\r\nHost: x\r\nA: b\r\nConnection: c\r\nAuthorization: d\r\n\r\n", "x", "A: b\n", ""},
	{"0\r\nHop: b\r\nA: b\r\n\r\n", "", "A: b\n", ""}, // "hop" is what Connection names
}

func TestChunked(t *testing.T) {
	for _, tt := range chunkedTests {
		for _, size := range []byte{255, 0, 1, 2} {
			content, trailers, rest, err := readBody(t, tt.text, framing{kind: chunked}, "x,hop,", size)
			if content != tt.content || trailers != tt.trailers || rest != tt.rest || err != io.EOF {
				t.Errorf("%q: %q, %q, %q, %v", tt.text, content, trailers, rest, err)
			}
		}
	}
}

var chunkedErrors = []struct {
	text string
	want error
}{
	{"", io.ErrUnexpectedEOF},
	{"5", io.ErrUnexpectedEOF},
	{"5\r\nhel", io.ErrUnexpectedEOF},
	{"5\r\nhello", io.ErrUnexpectedEOF},
	{"5\r\nhello\r\n", io.ErrUnexpectedEOF},
	{"0\r\n", io.ErrUnexpectedEOF},
	{"0\r\nA: b\r\n", io.ErrUnexpectedEOF},
	{"\r\n", errChunkSize},
	{";a\r\n", errChunkSize},
	{" 5\r\n", errChunkSize},
	{"5 \r\n", errChunkSize},
	{"5\t\r\n", errChunkSize},
	{"5 5\r\n", errChunkSize},
	{"+5\r\n", errChunkSize},
	{"-5\r\n", errChunkSize},
	{"0x5\r\n", errChunkSize},
	{"5_0\r\n", errChunkSize},
	{"g\r\n", errChunkSize},
	{"5,\r\n", errChunkSize},
	{"5;\x00\r\n", errChunkSize},
	{"5;\x7f\r\n", errChunkSize},
	{"\xb2\r\n", errChunkSize},
	{"10000000000000000\r\n", errChunkSize},
	{"ffffffffffffffff\r\n", errChunkSize},
	{"8000000000000000\r\n", errChunkSize},
	{"5\nhello\r\n", errChunkLine},
	{"5;a\nhello\r\n", errChunkLine},
	{"5\r\r\nhello", errChunkLine},
	{"5;a\rb\r\nhello", errChunkLine},
	{"\n5\r\nhello\r\n", errChunkLine},
	{"5\r\nhello\n0\r\n\r\n", errChunkLine},
	{"5\r\nhello0\r\n\r\n", errChunkEnd},
	{"5\r\nhello!\r\n0\r\n\r\n", errChunkEnd},
	{"5\r\nhello\r\r\n0\r\n\r\n", errChunkLine},
	{"0\n\n", errChunkLine},
	{"0\r\n\n", errChunkLine},
	{"0\r\nA: b\n\r\n", errChunkLine},
	{"0\r\n A: b\r\n\r\n", errFieldFold},
	{"0\r\nA: b\r\n c\r\n\r\n", errFieldFold},
	{"0\r\nA : b\r\n\r\n", errFieldSpace},
	{"0\r\nA\r\n\r\n", errFieldColon},
	{"0\r\nA: \x00\r\n\r\n", errFieldValue},
	{"0\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n", errTrailerSize},
	{"0\r\nA: " + strings.Repeat("x", 98) + "\r\n\r\n", errTrailerSize},
	{"0\r\n" + strings.Repeat("Host: x\r\n", 100) + "\r\n", errTrailerSize}, // dropped ones count too
	{"5;" + strings.Repeat("x", maxChunkLine), errChunkLine},
	{"5;" + strings.Repeat("x", maxChunkLine) + "\r\nhello\r\n0\r\n\r\n", errChunkLine},
	{strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\nx\r\n", 20), errChunkWaste},
}

func TestChunkedErrors(t *testing.T) {
	for _, tt := range chunkedErrors {
		for _, size := range []byte{255, 0, 1} {
			if _, trailers, _, err := readBody(t, tt.text, framing{kind: chunked}, "", size); !errors.Is(err, tt.want) || trailers != "" {
				t.Errorf("%.40q: error %v, want %v; trailers %q", tt.text, err, tt.want, trailers)
			}
		}
	}
}

// Many small chunks are fine, padded sizes and short extensions too.
func TestChunkedNoWaste(t *testing.T) {
	for _, chunk := range []string{"1\r\nx\r\n", "00000001\r\nx\r\n", "1;abc=def\r\nx\r\n"} {
		content, _, _, err := readBody(t, strings.Repeat(chunk, 10000)+"0\r\n\r\n", framing{kind: chunked}, "", 255)
		if len(content) != 10000 || err != io.EOF {
			t.Errorf("%q: %d bytes, %v", chunk, len(content), err)
		}
	}
	big := strings.Repeat("3e8;"+strings.Repeat("e", 900)+"\r\n"+strings.Repeat("x", 1000)+"\r\n", 100)
	if content, _, _, err := readBody(t, big+"0\r\n\r\n", framing{kind: chunked}, "", 255); len(content) != 100000 || err != io.EOF {
		t.Errorf("extensions smaller than content: %d bytes, %v", len(content), err)
	}
}

func TestKnownLength(t *testing.T) {
	for _, tt := range []struct {
		length              int64
		text, content, rest string
		err                 error
	}{
		{5, "hello", "hello", "", io.EOF},
		{5, "hello world", "hello", " world", io.EOF},
		{0, "rest", "", "rest", io.EOF},
		{5, "hell", "hell", "", io.ErrUnexpectedEOF},
		{5, "", "", "", io.ErrUnexpectedEOF},
	} {
		for _, size := range []byte{255, 0, 2} {
			content, _, rest, err := readBody(t, tt.text, framing{kind: knownLength, length: tt.length}, "", size)
			if content != tt.content || rest != tt.rest || err != tt.err {
				t.Errorf("%d of %q: %q, %q, %v", tt.length, tt.text, content, rest, err)
			}
		}
	}
}

func TestCloseFramed(t *testing.T) {
	if content, _, _, err := readBody(t, "0\r\n\r\n", framing{kind: closeFramed}, "", 1); content != "0\r\n\r\n" || err != io.EOF {
		t.Errorf("%q, %v", content, err)
	}
}

// Reading by Read, in steps of any size, gives the same as next.
func TestBodyRead(t *testing.T) {
	for size := 1; size < 8; size++ {
		var b body
		s := newStream(&piecewise{text: "5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\nrest", sizes: []byte{6}})
		b.start(s, &control{framing: framing{kind: chunked}}, time.Minute, headLimits{100, 3})
		var content strings.Builder
		if _, err := io.CopyBuffer(&content, struct{ io.Reader }{&b}, make([]byte, size)); err != nil || content.String() != "hello world" {
			t.Errorf("%q, %v", content.String(), err)
		}
		if len(b.trailerFields()) != 1 {
			t.Errorf("%d trailers", len(b.trailerFields()))
		}
		s.drop()
	}
}

// FuzzChunked compares with net/http where we accept, however the input is cut.
func FuzzChunked(f *testing.F) {
	for _, tt := range chunkedTests {
		f.Add(tt.text, []byte{3, 0, 100})
	}
	for _, tt := range chunkedErrors {
		f.Add(tt.text, []byte{0})
	}
	f.Fuzz(func(t *testing.T, text string, sizes []byte) {
		content, trailers, rest, err := readBody(t, text, framing{kind: chunked}, "", sizes...)
		whole, wholeTrailers, wholeRest, wholeErr := readBody(t, text, framing{kind: chunked}, "")
		if whole != content || wholeTrailers != trailers || !sameError(err, wholeErr) || err == io.EOF && wholeRest != rest {
			t.Fatalf("%q: %q, %q, %v; in pieces %q, %q, %v", text, whole, wholeRest, wholeErr, content, rest, err)
		}
		if err != io.EOF {
			return
		}
		if !strings.HasSuffix(text, rest) {
			t.Fatalf("%q: rest %q", text, rest)
		}
		r := bufio.NewReaderSize(strings.NewReader(text), len(text)+4<<10)
		want, err := io.ReadAll(httputil.NewChunkedReader(r))
		if err != nil && !blankBeforeExtension(text) || err == nil && string(want) != content {
			t.Errorf("%q: %q; net/http reads %q, %v", text, content, want, err)
		}
	})
}

// sameError reports whether both are the same, but that too early an end may come first.
func sameError(a, b error) bool {
	return errors.Is(a, b) || a != io.EOF && b != io.EOF
}

// blankBeforeExtension reports whether a chunk line may have whitespace before its semicolon,
// which RFC 9112, section 7.1.1, allows and net/http does not.
func blankBeforeExtension(text string) bool {
	return strings.Contains(text, " ;") || strings.Contains(text, "\t;")
}
