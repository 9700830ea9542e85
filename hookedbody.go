package mitm

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

// hookedBody is the content of the client's request as hooks read it.
type hookedBody struct {
	body
	h       *hookedExchange
	mu      sync.Mutex  // of what follows, and of body; an upload that reads body itself holds it
	closed  atomic.Bool // whoever read it wants no more
	lent    bool        // to net/http, which closes it when it is through
	trailed bool        // the trailers were told
	over    bool
}

// Read implements io.Reader.
func (b *hookedBody) Read(p []byte) (int, error) { return b.read(p, true) }

// read tells a client that waits for it to send, if asks is set.
func (b *hookedBody) read(p []byte, asks bool) (int, error) {
	if !b.mu.TryLock() {
		b.h.settle(false, (*hookedTrip).uploadsOwn)
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.over {
		return 0, http.ErrBodyReadAfterClose
	}
	b.claim()
	if asks && b.h.control.expectContinue && b.count == 0 && !b.ended() {
		if err := b.h.sayContinue(); err != nil {
			return 0, err
		}
	}
	n, err := b.body.Read(p)
	if err == io.EOF {
		b.tellTrailers()
	}
	b.watch()
	return n, err
}

// watch watches the client from the end of its content on: nobody else reads from it then.
func (b *hookedBody) watch() {
	if b.ended() {
		b.h.client.watch.arm()
	}
}

// watchUnread watches for the client's end although its content is still unread. Whatever arrives
// is kept for the first read, see claim.
func (b *hookedBody) watchUnread() {
	if b.h == nil || !b.mu.TryLock() { // in HTTP/2 the content is not here
		return
	}
	defer b.mu.Unlock()
	if !b.over && (b.err == nil || isTimeout(b.err)) { // as after drain
		b.h.client.watch.arm()
	}
}

// claim ends what watchUnread began, before the content is read. The lock is held.
func (b *hookedBody) claim() {
	if !b.ended() {
		b.h.client.watch.disarm()
	}
}

// tellTrailers puts the trailers where hooks look for them, once: they may change them.
func (b *hookedBody) tellTrailers() {
	if !b.trailed {
		b.trailed = true
		setTrailer(&b.h.req.Trailer, b.trailers)
	}
}

// lend makes an upload the reader of the content; false if somebody else is, or was.
func (b *hookedBody) lend() bool {
	if !b.mu.TryLock() {
		if b.h.settle(false, (*hookedTrip).uploadsOwn); !b.mu.TryLock() {
			return false
		}
	}
	if b.over || b.count > 0 {
		b.mu.Unlock()
		return false
	}
	b.claim()
	return true
}

// revive forgets that an upload was interrupted before it took anything. Behind the beginning of the
// trailers nothing can be taken up again.
func (b *hookedBody) revive() {
	if !b.mu.TryLock() {
		return
	}
	defer b.mu.Unlock()
	inTrailers := b.inChunks && b.left == 0
	if b.count == 0 && !inTrailers && b.failed() && isTimeout(b.err) {
		b.err = nil
	}
}

// forwardedBody is the content for a transport that reads it as it comes. Whether it is wanted is
// for the origin to say.
type forwardedBody struct{ *hookedBody }

// Read implements io.Reader.
func (b forwardedBody) Read(p []byte) (int, error) { return b.read(p, false) }

// Close implements io.Closer. What was not read is read by the proxy. It does not wait for a Read,
// and nobody takes it for one.
func (b *hookedBody) Close() error {
	b.closed.Store(true)
	return nil
}
