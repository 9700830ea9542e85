package mitm

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"time"
)

// Errors of chunked content (RFC 9112, section 7.1). Nothing is repaired here: chunks
// that two parsers read differently are how requests are smuggled.
var (
	errChunkSize   = errors.New("invalid chunk size (RFC 9112, section 7.1)")
	errChunkEnd    = errors.New("chunk data is not followed by CRLF (RFC 9112, section 7.1)")
	errChunkLine   = errors.New("chunk line too long or not ended by CRLF (RFC 9112, section 7.1)")
	errChunkWaste  = errors.New("more chunk extensions than content (RFC 9112, section 7.1.1)")
	errTrailerSize = errors.New("trailer section too large (RFC 9110, section 6.5)")
)

const (
	maxChunkLine  = 4 << 10  // a chunk size and its extensions
	freeChunkLine = 16       // room for a padded size, which is no waste
	maxChunkWaste = 16 << 10 // extensions that exceed the content so far
)

// uploadGrace is how long the end of an upload may take that is on its way already when its
// answer is there.
const uploadGrace = 100 * time.Millisecond

// source is the content of a message, free of its framing, a piece at a time.
type source interface {
	// next returns the next bytes, valid until the next call; io.EOF after the last.
	next() ([]byte, error)
	// ready reports whether next has something to return without waiting.
	ready() bool
	// wire returns where the content comes from if that is the wire, untouched; else nil.
	wire() *body
	// trailerFields are what came after the content; nil before io.EOF.
	trailerFields() []field
}

// body reads the content of one message from a stream and leaves the stream at the
// first byte behind it. A message that ends early is io.ErrUnexpectedEOF, never io.EOF.
type body struct {
	src *stream
	framing
	idle  time.Duration // how long a read may take
	clock *clock        // of both directions; nil: of this one alone
	by    time.Time     // when it has to be over, see drain; zero: idle counts
	limit headLimits    // of the trailer section
	names []byte        // fields that must not go on, see control

	left     int64  // of the content, or of the chunk being read
	rest     []byte // what Read has not delivered yet
	pads     bool   // blanks may follow a chunk size, see control
	inChunks bool   // the first chunk has begun, so CRLF is due before the next size
	waste    int64  // bytes of chunk extensions minus bytes of content
	count    int64  // content bytes so far
	err      error  // sticky; io.EOF at the end

	trailers []field
	lines    []byte // what trailers point into
}

// headLimits bounds a head or a trailer section.
type headLimits struct{ bytes, fields int }

// start makes b read the content of a message with c from src.
func (b *body) start(src *stream, c *control, idle time.Duration, limit headLimits) {
	*b = body{
		src: src, framing: c.framing, names: c.names, idle: idle, limit: limit, pads: c.pads,
		trailers: b.trailers[:0], lines: b.lines[:0],
	}
	if b.kind == knownLength {
		b.left = b.length
	}
	if b.empty() {
		b.err = io.EOF
	}
}

func (b *body) wire() *body { return b }

func (b *body) trailerFields() []field {
	if b.err != io.EOF {
		return nil
	}
	return b.trailers
}

// failed reports whether the content can't be read to its end.
func (b *body) failed() bool { return b.err != nil && b.err != io.EOF }

// ended reports whether the content was read to its proper end.
func (b *body) ended() bool { return b.err == io.EOF && len(b.rest) == 0 }

func (b *body) ready() bool {
	if b.err != nil || len(b.rest) > 0 {
		return true
	}
	have := b.src.buffered()
	if b.kind != chunked || b.left > 0 {
		return len(have) > 0
	}
	// A whole chunk line with a byte behind it, or the last chunk and all trailers.
	skip := 0
	if b.inChunks {
		skip = len("\r\n")
	}
	if len(have) <= skip {
		return false
	}
	have = have[skip:]
	lf := bytes.IndexByte(have, '\n')
	if lf > 0 && isLastChunk(have[:lf], b.pads) {
		return bytes.Contains(have[lf-1:], []byte("\r\n\r\n"))
	}
	return lf >= 0 && lf+1 < len(have)
}

// isLastChunk reports whether a chunk line has the size 0. One that only begins with 0 is padded:
// whoever looked behind it for the end of the trailers would look through many chunks for each.
func isLastChunk(line []byte, pads bool) bool {
	if line[0] != '0' {
		return false
	}
	size, err := parseChunkSize(bytes.TrimSuffix(line, []byte{'\r'}), pads)
	return size == 0 && err == nil
}

// next implements source.
func (b *body) next() ([]byte, error) {
	if len(b.rest) > 0 {
		p := b.rest
		b.rest = nil
		return p, nil
	}
	if b.err == nil && b.kind == chunked && b.left == 0 {
		b.err = b.nextChunk()
	}
	if b.err != nil {
		return nil, b.err
	}
	p, err := b.some()
	if err != nil {
		b.err = err
	}
	return p, err
}

// some returns buffered content, waiting for it if need be.
func (b *body) some() ([]byte, error) {
	if len(b.src.buffered()) == 0 {
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
	p := b.src.buffered()
	if b.kind != closeFramed && int64(len(p)) > b.left {
		p = p[:b.left]
	}
	b.src.discard(len(p))
	b.took(int64(len(p)))
	return p, nil
}

// took accounts for n bytes of content that left the stream.
func (b *body) took(n int64) {
	b.count += n
	b.clock.tick()
	b.waste = max(0, b.waste-n)
	if b.kind == closeFramed {
		return
	}
	if b.left -= n; b.left == 0 && b.kind == knownLength {
		b.err = io.EOF
	}
}

// fill reads more. Where the end of the connection is not the end of the content, it
// comes too early for whoever needs more.
func (b *body) fill() error {
	within := b.idle
	if !b.by.IsZero() {
		within = max(time.Until(b.by), 1) // 0 would be for ever
	}
	b.src.readWithin(within)
	err := b.src.fill(bufferSize)
	if err == io.EOF && (b.kind != closeFramed || b.src.endedOpen()) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// nextChunk reads up to the data of the next chunk; io.EOF after the last.
func (b *body) nextChunk() error {
	if b.inChunks {
		line, err := b.line()
		if err != nil || len(line) > 0 {
			return cmp.Or(err, errChunkEnd)
		}
	}
	line, err := b.line()
	if err != nil {
		return err
	}
	b.inChunks = true
	if b.left, err = parseChunkSize(line, b.pads); err != nil {
		return err
	}
	if b.waste += int64(max(0, len(line)-freeChunkLine)); b.waste > maxChunkWaste {
		return errChunkWaste
	}
	if b.left == 0 {
		return b.readTrailers()
	}
	return nil
}

// parseChunkSize reads the size and skips the extensions (RFC 9112, section 7.1.1). With pads,
// blanks alone may follow the size, as some servers write it; no client needs to.
func parseChunkSize(line []byte, pads bool) (n int64, err error) {
	const maxDigits = 15 // what an int64 holds for certain
	digits := 0
	for ; digits < len(line); digits++ {
		d, ok := hexDigit(line[digits])
		if !ok {
			break
		}
		if digits == maxDigits {
			return 0, errChunkSize
		}
		n = n<<4 | int64(d)
	}
	ext := trimBlanks(line[digits:])
	padded := len(ext) == 0 && len(line) > digits
	if digits == 0 || padded && !pads || len(ext) > 0 && ext[0] != ';' || !validValue(ext) {
		return 0, errChunkSize
	}
	return n, nil
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// line takes one line that ends in CRLF exactly. It is valid until the next fill.
func (b *body) line() ([]byte, error) {
	for {
		have := b.src.buffered()
		if lf := bytes.IndexByte(have, '\n'); lf >= 0 {
			line, ok := bytes.CutSuffix(have[:lf], []byte{'\r'})
			if !ok || lf > maxChunkLine || bytes.IndexByte(line, '\r') >= 0 {
				return nil, errChunkLine
			}
			b.src.discard(lf + 1)
			return line, nil
		}
		if len(have) > maxChunkLine {
			return nil, errChunkLine
		}
		if err := b.fill(); err != nil {
			return nil, err
		}
	}
}

// readTrailers reads the trailer section and keeps the fields that may be there; it
// returns io.EOF, the end of the message.
func (b *body) readTrailers() error {
	for size := 0; ; {
		line, err := b.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return io.EOF
		}
		if size += len(line); size > b.limit.bytes || len(b.trailers) == b.limit.fields {
			return errTrailerSize
		}
		at := len(b.lines)
		b.lines = append(b.lines, line...)
		f, err := parseField(b.lines[at:])
		if err != nil {
			return err
		}
		if allowedInTrailer(&f) && !named(b.names, &f) {
			b.trailers = append(b.trailers, f)
		}
	}
}

// drain reads the rest of the content if that is little and on its way already: a client may
// want an answer before it sends the rest. What did not come in time is not read any more.
func (b *body) drain() {
	const most = 256 << 10
	if b.ended() || b.kind == knownLength && b.left > most {
		return
	}
	clock := b.clock
	b.clock, b.by = nil, time.Now().Add(uploadGrace) // what comes puts no deadline off
	for start := b.count; b.count-start < most; {
		if _, err := b.next(); err != nil {
			break
		}
	}
	b.clock, b.by = clock, time.Time{}
	b.src.readWithin(0)
}

// Read implements io.Reader, for hooks.
func (b *body) Read(p []byte) (n int, err error) {
	if len(b.rest) == 0 {
		if b.rest, err = b.next(); err != nil {
			return 0, err
		}
	}
	n = copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}
