package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Client keeps some streams of an HTTP/2 connection busy. It reads and writes frames
// itself, in one goroutine.
type http2Client struct {
	job     *job
	nc      net.Conn
	out     *bufio.Writer
	br      *bufio.Reader
	framer  *http2.Framer
	decoder *hpack.Decoder
	status  string // in the field block that is being decoded
	first   []byte // the fields of the first request
	block   []byte // and of the others
	next    uint32 // stream
	streams map[uint32]*http2Stream
}

type http2Stream struct {
	begin time.Time
	got   int64
}

// http2Streams is how many streams a connection has at once.
const http2Streams = 4

func (c *http2Client) open() (err error) {
	if c.nc, err = c.job.Way.start(c.job.Way.Authority, c.job.Way.config(c.job.Way.ServerName)); err != nil {
		return err
	}
	c.out, c.br = bufio.NewWriter(c.nc), bufio.NewReaderSize(c.nc, 32<<10)
	c.framer = http2.NewFramer(c.out, c.br)
	c.framer.SetReuseFrames()
	c.decoder = hpack.NewDecoder(4096, c.field)
	c.encode()
	c.next, c.streams = 1, map[uint32]*http2Stream{}
	c.out.WriteString(http2.ClientPreface)
	err = cmpErr(
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30}),
		c.framer.WriteWindowUpdate(0, 1<<30))
	if err != nil {
		return err
	}
	_, _, err = c.do()
	return err
}

// encode makes the field blocks. With the first all fields get into the table of the other
// side, so that the others refer to them, and are all the same (RFC 7541, section 2.3.2).
func (c *http2Client) encode() {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, block := range []*[]byte{&c.first, &c.block} {
		b.Reset()
		for _, f := range [][2]string{
			{":method", "GET"}, {":scheme", "https"}, {":authority", c.job.Way.Authority},
			{":path", "/" + strconv.FormatInt(c.job.Size, 10)}, {"user-agent", "bench/1"}, {"accept", "*/*"},
		} {
			e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		*block = bytes.Clone(b.Bytes())
	}
}

func (c *http2Client) field(f hpack.HeaderField) {
	if f.Name == ":status" {
		c.status = f.Value
	}
}

// do begins requests until enough are on their way, and returns when one is answered.
func (c *http2Client) do() (n int64, d time.Duration, err error) {
	for len(c.streams) < http2Streams {
		if err := c.request(); err != nil {
			return 0, 0, err
		}
	}
	for {
		if c.br.Buffered() == 0 {
			if err := c.out.Flush(); err != nil {
				return 0, 0, err
			}
		}
		f, err := c.framer.ReadFrame()
		if err != nil {
			return 0, 0, err
		}
		ended, err := c.frame(f)
		if s := c.streams[f.Header().StreamID]; ended && err == nil {
			delete(c.streams, f.Header().StreamID)
			return s.got, time.Since(s.begin), c.check(s)
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

func (c *http2Client) request() error {
	h := http2.HeadersFrameParam{StreamID: c.next, BlockFragment: c.block, EndStream: true, EndHeaders: true}
	if c.next == 1 {
		h.BlockFragment = c.first
	}
	c.streams[c.next] = &http2Stream{begin: time.Now()}
	c.next += 2
	return c.framer.WriteHeaders(h)
}

func (c *http2Client) check(s *http2Stream) error {
	if s.got != c.job.Size {
		return fmt.Errorf("%w: %d bytes", errAnswer, s.got)
	}
	return nil
}

// frame handles a frame, and reports whether a stream has ended.
func (c *http2Client) frame(f http2.Frame) (ended bool, err error) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			err = c.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			err = c.framer.WritePing(true, f.Data)
		}
	case *http2.HeadersFrame:
		return f.StreamEnded(), c.headers(f)
	case *http2.DataFrame:
		return f.StreamEnded(), c.data(f)
	case *http2.RSTStreamFrame:
		err = fmt.Errorf("%w: reset, %v", errAnswer, f.ErrCode)
	case *http2.GoAwayFrame:
		err = fmt.Errorf("%w: GOAWAY, %v", errAnswer, f.ErrCode)
	}
	return false, err
}

func (c *http2Client) headers(f *http2.HeadersFrame) error {
	if c.streams[f.StreamID] == nil || !f.HeadersEnded() {
		return fmt.Errorf("%w: field block of stream %d", errAnswer, f.StreamID)
	}
	c.status = "200" // trailers have none
	_, err := c.decoder.Write(f.HeaderBlockFragment())
	if err = cmpErr(err, c.decoder.Close()); err == nil && c.status != "200" {
		err = fmt.Errorf("%w: status %s", errAnswer, c.status)
	}
	return err
}

func (c *http2Client) data(f *http2.DataFrame) error {
	s, p := c.streams[f.StreamID], f.Data()
	if s == nil || !bytes.Equal(p, patternAt(s.got, int64(len(p)))) {
		return fmt.Errorf("%w: data of stream %d", errAnswer, f.StreamID)
	}
	s.got += int64(len(p))
	if f.Length == 0 {
		return nil
	}
	return c.framer.WriteWindowUpdate(0, f.Length)
}

func (c *http2Client) close() {
	if c.nc != nil {
		c.nc.Close()
	}
}
