package mitm_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"
)

// h2peer is one end of an HTTP/2 connection, for tests that speak in frames. It checks
// nothing of what it sends. One goroutine at a time may use it.
type h2peer struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader

	fields  *hpack.Encoder
	encoded bytes.Buffer
	decoder *hpack.Decoder

	lastID   uint32 // of the own requests
	streams  map[uint32]*h2stream
	fresh    []*h2stream // begun by the other side, not accepted
	settings map[uint16]uint32
	window   int64 // what may be sent on the connection
	shut     bool  // what was received is not given back to the windows
	pings    int   // acknowledged
	goAway   *goAway
	gone     error // why nothing more can be read
}

// goAway is the payload of a GOAWAY frame.
type goAway struct{ last, code uint32 }

// h2stream is what has come on a stream.
type h2stream struct {
	id      uint32
	head    []hpack.HeaderField
	interim [][]hpack.HeaderField
	trailer []hpack.HeaderField
	body    bytes.Buffer
	frames  int // DATA
	ended   bool
	reset   *uint32
	window  int64 // what may be sent, beyond the initial window
	stalled bool  // its window is not opened again
}

// newH2Peer starts HTTP/2 on a connection, as a client or as a server. Settings are
// identifiers and values in turn.
func newH2Peer(t testing.TB, nc net.Conn, client bool, settings ...uint32) *h2peer {
	p := &h2peer{
		t: t, nc: nc, r: bufio.NewReader(nc), decoder: hpack.NewDecoder(4096, nil),
		streams: map[uint32]*h2stream{}, settings: map[uint16]uint32{settingWindow: 65535}, window: 65535,
	}
	p.fields = hpack.NewEncoder(&p.encoded)
	if client {
		io.WriteString(nc, h2Preface)
	} else if _, err := io.ReadFull(p.r, make([]byte, len(h2Preface))); err != nil {
		p.gone = err
	}
	p.sendSettings(settings...)
	return p
}

// step reads one frame. It returns false when there are no more.
func (p *h2peer) step() bool {
	if p.gone != nil {
		return false
	}
	kind, flags, id, payload, err := p.readFrame()
	if err != nil {
		p.gone = err
		return false
	}
	number := func(at int) uint32 { return binary.BigEndian.Uint32(payload[at:]) }
	switch ack := flags&endStream != 0; kind {
	case frameHeaders:
		p.gotFields(id, flags, payload)
	case frameData:
		p.gotData(id, ack, payload)
	case frameReset:
		if s := p.stream(id); !s.ended || number(0) != 0 { // else only the request is not wanted
			s.reset = new(number(0))
		}
	case frameGoAway:
		p.goAway = &goAway{number(0), number(4)}
	case frameWindow:
		if id == 0 {
			p.window += int64(number(0))
		} else {
			p.stream(id).window += int64(number(0))
		}
	case framePing:
		if ack {
			p.pings++
		} else {
			p.frame(framePing, endStream, 0, payload)
		}
	case frameSettings:
		for i := 0; i < len(payload); i += 6 {
			p.settings[binary.BigEndian.Uint16(payload[i:])] = number(i + 2)
		}
		if !ack {
			p.frame(frameSettings, endStream, 0, nil)
		}
	}
	return true
}

func (p *h2peer) stream(id uint32) *h2stream {
	if p.streams[id] == nil {
		p.streams[id] = &h2stream{id: id}
	}
	return p.streams[id]
}

func (p *h2peer) gotFields(id uint32, flags byte, block []byte) {
	end := flags&endStream != 0
	for flags&endHeaders == 0 {
		kind, more, _, payload, err := p.readFrame()
		if err != nil || kind != frameContinuation {
			p.gone = fmt.Errorf("frame %d in place of CONTINUATION, %w", kind, err)
			return
		}
		block, flags = append(block, payload...), more
	}
	fields, err := p.decoder.DecodeFull(block)
	if err != nil {
		p.gone = err
		return
	}
	known := p.streams[id] != nil
	s := p.stream(id)
	s.ended = end
	switch status := valueOf(fields, ":status"); {
	case s.head != nil:
		s.trailer = fields
	case len(status) == 3 && status[0] == '1':
		s.interim = append(s.interim, fields)
	default:
		s.head = fields
	}
	if !known {
		p.fresh = append(p.fresh, s)
	}
}

func (p *h2peer) gotData(id uint32, end bool, data []byte) {
	s := p.stream(id)
	s.body.Write(data)
	s.frames++
	s.ended = end
	if !p.shut && len(data) > 0 {
		p.number(frameWindow, 0, uint32(len(data)))
		if !end && !s.stalled {
			p.number(frameWindow, id, uint32(len(data)))
		}
	}
}

// until reads until a condition holds. It returns false if the connection ends before that.
func (p *h2peer) until(condition func() bool) bool {
	for !condition() {
		if !p.step() {
			return false
		}
	}
	return true
}

// over reports whether nothing more will come.
func (s *h2stream) over() bool { return s.ended || s.reset != nil }

// outcome is how a stream ended, in a few words.
func (s *h2stream) outcome() string {
	switch {
	case s.reset != nil && s.head != nil:
		return "cut " + valueOf(s.head, ":status")
	case s.reset != nil:
		return "reset"
	case s.ended:
		return valueOf(s.head, ":status")
	}
	return "open"
}

// accept waits for a stream that the other side begins; nil: none comes.
func (p *h2peer) accept() *h2stream {
	if !p.until(func() bool { return len(p.fresh) > 0 }) {
		return nil
	}
	s := p.fresh[0]
	p.fresh = p.fresh[1:]
	return s
}

// headers sends a header block. Fields are names and values in turn.
func (p *h2peer) headers(id uint32, end bool, fields ...string) {
	p.encoded.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.fields.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	p.block(id, end, p.encoded.Bytes())
}

// block sends a field section that is encoded already.
func (p *h2peer) block(id uint32, end bool, block []byte) {
	const most = 16384
	kind, flags := byte(frameHeaders), byte(0)
	if end {
		flags = endStream
	}
	for {
		n := min(len(block), most)
		if n == len(block) {
			flags |= endHeaders
		}
		p.frame(kind, flags, id, block[:n])
		if block = block[n:]; len(block) == 0 {
			return
		}
		kind, flags = frameContinuation, 0
	}
}

// data sends a DATA frame, whatever the windows are.
func (p *h2peer) data(id uint32, end bool, s string) {
	p.window -= int64(len(s))
	p.stream(id).window -= int64(len(s))
	flags := byte(0)
	if end {
		flags = endStream
	}
	p.frame(frameData, flags, id, []byte(s))
}

// cancel ends a stream with RST_STREAM.
func (p *h2peer) cancel(s *h2stream, code uint32) { p.number(frameReset, s.id, code) }

// room is how much DATA may be sent on a stream.
func (p *h2peer) room(id uint32) int64 {
	return min(p.window, int64(p.settings[settingWindow])+p.stream(id).window, 16384)
}

// ping returns when the other side has dealt with all that was sent before.
func (p *h2peer) ping() bool {
	n := p.pings
	p.frame(framePing, 0, 0, make([]byte, 8))
	return p.until(func() bool { return p.pings > n })
}

// pour sends n bytes of DATA as windows allow, and tells about each frame.
func (p *h2peer) pour(id uint32, n int64, end bool, sent func(n int64)) bool {
	for n > 0 {
		if !p.until(func() bool { return p.room(id) > 0 || p.stream(id).reset != nil }) || p.stream(id).reset != nil {
			return false
		}
		k := min(n, p.room(id))
		n -= k
		p.data(id, end && n == 0, strings.Repeat("x", int(k)))
		if sent != nil {
			sent(k)
		}
	}
	return true
}

// begin sends the head of a request. Fields whose names are pseudo-headers replace those of
// a GET, or, with the value "-", take them out.
func (p *h2peer) begin(end bool, fields ...string) *h2stream {
	all := []string{":method", "GET", ":scheme", "https", ":authority", "example.com", ":path", "/"}
	var rest []string
	for i := 0; i < len(fields); i += 2 {
		at := indexOf(all, fields[i])
		switch {
		case at < 0:
			rest = append(rest, fields[i], fields[i+1])
		case fields[i+1] == "-":
			all = append(all[:at:at], all[at+2:]...)
		default:
			all[at+1] = fields[i+1]
		}
	}
	return p.raw(end, append(all, rest...)...)
}

// raw sends a head with nothing added.
func (p *h2peer) raw(end bool, fields ...string) *h2stream {
	p.lastID = (p.lastID + 1) | 1
	p.headers(p.lastID, end, fields...)
	return p.stream(p.lastID)
}

// get makes a request without content and waits for the response.
func (p *h2peer) get(fields ...string) *h2stream {
	p.t.Helper()
	return p.wait(p.begin(true, fields...))
}

// wait returns s when it is over, or fails the test.
func (p *h2peer) wait(s *h2stream) *h2stream {
	p.t.Helper()
	if !p.until(s.over) {
		p.t.Fatalf("stream %d: %s, then %v, GOAWAY %v", s.id, s.outcome(), p.gone, p.goAway)
	}
	return s
}

// want fails the test unless the stream ended as outcome says.
func (p *h2peer) want(s *h2stream, outcome string) {
	p.t.Helper()
	if got := p.wait(s).outcome(); got != outcome {
		p.t.Errorf("stream %d: %s, want %s; %q", s.id, got, outcome, s.body.String())
	}
}

// answer ends a stream with a response. A nil stream has no answer.
func (p *h2peer) answer(s *h2stream, content string, fields ...string) {
	p.headers(s.id, content == "", append([]string{":status", "200"}, fields...)...)
	if content != "" {
		p.data(s.id, true, content)
	}
}

func indexOf(fields []string, name string) int {
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == name && name[0] == ':' {
			return i
		}
	}
	return -1
}

// valueOf returns the values of a field, joined by "|".
func valueOf(fields []hpack.HeaderField, name string) string {
	var values []string
	for _, f := range fields {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return strings.Join(values, "|")
}
