package mitm

import (
	"cmp"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
)

// Errors of content that a hook replaced.
var (
	errContentShort = errors.New("content is shorter than its Content-Length")
	errContentLong  = errors.New("content is longer than its Content-Length")
)

const (
	// spliceFrom is the least that is left to the kernel: below, setting up the
	// pipe costs more than it saves.
	spliceFrom = 256 << 10
	// spliceChunk bounds one call, so that counts and deadlines stay alive.
	spliceChunk = 256 << 10
)

// sender writes one message: a head, put into out beforehand, and its content. Small
// pieces are collected and written at once, but nothing is held back when the source
// has to wait.
type sender struct {
	dst     *stream
	framing framing
	idle    time.Duration // how long a write may take
	clock   *clock        // of both directions; nil: of this one alone

	out      []byte      // not yet written; pooled, see start and done
	left     int64       // of knownLength
	last     bool        // nothing that dst sends is read when all content was taken
	complete atomic.Bool // all content was taken from the source
	pieces   [3][]byte
	vector   net.Buffers
}

func (w *sender) start(dst *stream, f framing, idle time.Duration) {
	w.dst, w.framing, w.idle = dst, f, idle
	w.left, w.last = f.length, false
	w.complete.Store(false)
	if w.out == nil {
		w.out = takeBuffer()[:0]
	}
}

// done gives the buffer back.
func (w *sender) done() {
	if w.out != nil {
		giveBuffer(w.out)
		w.out = nil
	}
}

// flush writes what was collected.
func (w *sender) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	w.dst.writeWithin(w.idle)
	_, err := w.dst.out.Write(w.out)
	w.out = w.out[:0]
	w.clock.tick()
	return err
}

// send writes the content of src to its end. An error of src is returned after all
// that came before it went out; the message is then left without its end.
func (w *sender) send(src source) error {
	if !src.ready() { // the head does not wait for content
		if err := w.flushed(); err != nil {
			return err
		}
	}
	for {
		if b := src.wire(); b != nil && w.canSplice(b) {
			if err := w.splice(b); err != nil {
				return &sendError{err}
			}
		}
		p, err := src.next()
		if err == io.EOF {
			return w.end(src.trailerFields())
		}
		if err != nil {
			return cmp.Or(w.flushed(), err)
		}
		if err := w.piece(p); err != nil {
			return cmp.Or(w.flushed(), err)
		}
		if !src.ready() {
			if err := w.flushed(); err != nil {
				return err
			}
		}
	}
}

// sendError is an error of the side that is written to, as opposed to the source.
type sendError struct{ err error }

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

func isSendError(err error) bool {
	var sending *sendError
	return errors.As(err, &sending)
}

func (w *sender) flushed() error {
	if err := w.flush(); err != nil {
		return &sendError{err}
	}
	return nil
}

// piece writes p, framed, or collects it.
func (w *sender) piece(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	end := ""
	switch w.framing.kind {
	case knownLength:
		if int64(len(p)) > w.left {
			return errContentLong
		}
		if w.left -= int64(len(p)); w.left == 0 {
			w.complete.Store(true)
		}
	case chunked:
		w.out = append(strconv.AppendInt(w.out, int64(len(p)), 16), "\r\n"...)
		end = "\r\n"
	case noContent:
		return errContentLong
	}
	if w.fits(len(p)) {
		w.out = append(append(w.out, p...), end...)
		return nil
	}
	return w.writeThrough(p, end)
}

// fits reports whether n bytes of content can be collected, and what frames them.
func (w *sender) fits(n int) bool {
	const room = 64 // for the next chunk's size, or the last chunk
	return len(w.out)+n+room <= cap(w.out)
}

// writeThrough writes what was collected, p and end without copying p.
func (w *sender) writeThrough(p []byte, end string) error {
	w.pieces = [3][]byte{w.out, p, nil}
	n := len(w.out)
	w.out = append(w.out, end...) // behind what is written first, in the same buffer
	w.pieces[0], w.pieces[2] = w.out[:n], w.out[n:]
	w.vector = w.pieces[:]
	w.dst.writeWithin(w.idle)
	_, err := w.vector.WriteTo(w.dst.nc)
	w.pieces, w.vector, w.out = [3][]byte{}, nil, w.out[:0]
	w.clock.tick()
	if err != nil {
		return &sendError{err}
	}
	return nil
}

// end writes what marks the end of the message.
func (w *sender) end(trailers []field) error {
	if w.last {
		w.dst.ignore()
	}
	w.appendEnd(trailers)
	if w.framing.kind == knownLength && w.left > 0 {
		return cmp.Or(w.flushed(), errContentShort)
	}
	return w.flushed()
}

func (w *sender) appendEnd(trailers []field) {
	w.complete.Store(true)
	if w.framing.kind != chunked {
		return
	}
	w.out = append(w.out, "0\r\n"...)
	for i := range trailers {
		w.out = append(append(w.out, trailers[i].line...), "\r\n"...)
	}
	w.out = append(w.out, "\r\n"...)
}

// collect takes content that is at hand already and fits behind the head, without
// writing. It reports whether that was all.
func (w *sender) collect(b *body) (all bool, err error) {
	const room = 64
	if b.ended() {
		return true, nil
	}
	if len(w.out)+len(b.src.buffered())+room > cap(w.out) {
		return false, nil
	}
	for b.ready() {
		p, err := b.next()
		if err == io.EOF {
			w.appendEnd(b.trailerFields())
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if err := w.piece(p); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (w *sender) canSplice(b *body) bool {
	return b.kind == knownLength && w.framing.kind != chunked && b.left >= spliceFrom &&
		len(b.rest) == 0 && len(b.src.buffered()) == 0 && canSplice(w.dst, b.src)
}

// splice lets the kernel move the rest of b. A failed read is left for b.next.
func (w *sender) splice(b *body) error {
	if err := w.flush(); err != nil {
		return err
	}
	// The last byte is left to piece, which marks the content complete before its receiver
	// can answer it.
	for b.left > 1 {
		b.src.readWithin(b.idle)
		// The write deadline must not come first: what is in the pipe would be lost.
		w.dst.writeWithin(2 * w.idle)
		n, err := spliceSome(w.dst, b.src, min(b.left-1, spliceChunk))
		b.took(n)
		w.left -= n
		switch {
		case err == nil && n > 0, isTimeout(err) && n > 0 && !w.dst.overdue():
			continue
		case err != nil && !isTimeout(err) && !b.src.broken(), w.dst.overdue():
			return err
		}
		b.err = cmp.Or(err, io.ErrUnexpectedEOF)
		return nil
	}
	return nil
}

// canSplice reports whether both ends are TCP sockets that the kernel can join.
func canSplice(dst, src *stream) bool {
	_, from := src.nc.(*net.TCPConn)
	_, to := dst.nc.(*net.TCPConn)
	return from && to && runtime.GOOS == "linux"
}

// spliceSome moves up to n bytes inside the kernel: ReadFrom of a TCP connection uses
// splice(2) where the source is one too, behind at most one io.LimitedReader.
func spliceSome(dst, src *stream, n int64) (int64, error) {
	src.limited = io.LimitedReader{R: src.nc, N: n}
	return dst.nc.(*net.TCPConn).ReadFrom(&src.limited)
}
