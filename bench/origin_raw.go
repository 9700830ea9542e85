package main

import (
	"encoding/binary"
	"io"
	"net"
)

// The raw service gets orders of nine bytes, what to do and how many bytes of content there
// are. The first byte is one that no other protocol begins with.
const (
	orderDown byte = 0xf1 + iota // send content
	orderUp                      // get content, then answer with the order
	orderBoth                    // both at once
	orderPing                    // get content, send it back

	orderSize = 9
)

func order(what byte, n int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{what}, uint64(n))
}

// serveRaw executes the orders of a connection.
func serveRaw(nc net.Conn) {
	var o rawOrigin
	for o.execute(nc) == nil {
	}
}

type rawOrigin struct{ buf []byte }

func (o *rawOrigin) execute(nc net.Conn) error {
	var b [orderSize]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return err
	}
	n := int64(binary.BigEndian.Uint64(b[1:]))
	switch b[0] {
	case orderDown:
		return writePattern(nc, n)
	case orderUp:
		return o.up(nc, n, b[:])
	case orderBoth:
		return o.both(nc, n, b[:])
	case orderPing:
		return o.ping(nc, n)
	}
	return io.ErrUnexpectedEOF
}

func (o *rawOrigin) up(nc net.Conn, n int64, answer []byte) error {
	if o.buf == nil {
		o.buf = make([]byte, rawBuffer)
	}
	if _, err := checkPattern(nc, n, o.buf); err != nil {
		return err
	}
	_, err := nc.Write(answer)
	return err
}

// both sends content while it gets some. The answer comes last.
func (o *rawOrigin) both(nc net.Conn, n int64, answer []byte) error {
	sent := make(chan error, 1)
	go func() { sent <- writePattern(nc, n) }()
	_, err := checkPattern(nc, n, make([]byte, rawBuffer))
	if err != nil {
		nc.Close()
	}
	if err := cmpErr(<-sent, err); err != nil {
		return err
	}
	_, err = nc.Write(answer)
	return err
}

func (o *rawOrigin) ping(nc net.Conn, n int64) error {
	var b [pingSize]byte
	if n > pingSize {
		return io.ErrShortBuffer
	}
	if _, err := io.ReadFull(nc, b[:n]); err != nil {
		return err
	}
	_, err := nc.Write(b[:n])
	return err
}

const (
	rawBuffer = 128 << 10
	pingSize  = 64
)
