package mitm

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// Errors of responses, beside those of their syntax.
var (
	errInterim    = errors.New("too many interim responses (RFC 9110, section 15.2)")
	errUpgrade    = errors.New("unexpected 101 (Switching Protocols) (RFC 9110, section 7.8)")
	errNoResponse = errors.New("connection closed without a response")
	errStale      = errors.New("connection closed, or not quiet, while it was idle")
)

// maxInterim bounds how many 1xx responses may come without a second between them. One now and then
// shows that an origin is at work, for however long.
const maxInterim = 100

// interims counts the latest 1xx responses that have come without a second between them.
type interims struct {
	last uint32 // in milliseconds, of which the lower bits are enough
	n    int32
}

// more reports whether another one may come now.
func (i *interims) more() bool {
	now := uint32(time.Now().UnixMilli())
	if now-i.last >= 1000 {
		i.n = 0
	}
	i.last = now
	i.n++
	return i.n <= maxInterim
}

// trip carries one request to an origin server and brings the response back. The
// goroutine that runs it writes the request and reads the response; content that is
// not at hand with the head is sent by a second one, so that an early answer is seen.
type trip struct {
	client  *stream // whose request it is
	origins *origins
	watch   *watch
	limits  *limits
	owner   tripOwner
	route   *route

	method  string
	request sender // request.out holds the head and what content goes with it
	source  source // content that is still to come; nil: none
	content *body  // the client's content if that is the source
	clock   *clock // of the exchange
	stop    func() // makes a waiting source return, if it does not read from the client; nil: it does

	protocol string // that the request asks to upgrade to; "": there is a choice
	upgrade  bool   // the request asks for an upgrade
	expects  bool   // the client waits for 100 (Continue) with its content
	bound    bool   // the request carries credentials that bind its connection

	received   bool // a byte of a response came
	sentBefore bool // the upload was complete when the origin ran out of time before
	o          *origin
	given      *origin    // a connection that was opened for it already
	earlyErr   error      // of a dial that began before the request
	uploaded   chan error // the result of the upload; nil: no goroutine was needed, or it is known
	uploadErr  error      // of the source, not of the origin
	uploading  atomic.Int32
	stopped    atomic.Bool // errors of the source are our own doing
	ctx        context.Context
	clientDone <-chan struct{} // of the client connection, which cuts by itself
	unhook     func() bool     // stops watching ctx

	head     head
	status   statusLine
	control  control
	interims interims
	body     body
}

// The stages of an upload by a goroutine, in trip.uploading.
const (
	uploadRuns    = iota
	uploadAwaited // somebody waits, reading from the origin, who is to be interrupted at the end
	uploadEnded
)

// tripOwner is the exchange that a trip is made for.
type tripOwner interface {
	// interim passes a 1xx response on to the client.
	interim(*trip) error
	// panicked makes an error of what a reader of a hook panicked with.
	panicked(v any) error
}

// run sends the request and returns when the head of the final response is there. A
// reused connection that turns out to be dead is replaced, once, if that is safe
// (RFC 9110, section 9.2.2): nothing of a response came, and the method is idempotent.
func (t *trip) run(ctx context.Context) error {
	t.ctx = ctx
	n := len(t.request.out)
	for again := false; ; {
		if err := t.acquire(ctx, again); err != nil {
			t.o = nil
			return err
		}
		reused := t.o.reused
		err := t.attempt()
		if err == nil {
			return nil
		}
		t.abandon()
		if err == errStale { // nothing was sent: the next one may be in order
			continue
		}
		if t.uploadErr != nil {
			return &OpError{Op: "read request", Err: clientGone(t.uploadErr)}
		}
		if !reused || t.received || t.source != nil || !idempotent(t.method) || ctx.Err() != nil || isTimeout(err) {
			return err
		}
		t.request.out, again = t.request.out[:n], true
	}
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// acquire gets a connection: the client's own, one dialled for it early, an idle one or
// a new one. Where one has turned out to be dead already, others may be too. The origin is not
// offered HTTP/2 any more, even if the route allows that.
func (t *trip) acquire(ctx context.Context, again bool) (err error) {
	if t.given != nil {
		t.o, t.given = t.given, nil
		return nil
	}
	if o := t.reserved(); o != nil {
		t.o = o
		return nil
	}
	key := t.route.key.for1()
	if !again {
		if t.o, err = t.origins.idle(key); t.o != nil {
			return err
		}
	}
	if t.earlyErr != nil {
		return t.earlyErr
	}
	t.o, err = t.origins.dial(ctx, key, t.route.conn)
	return err
}

// reserved returns a connection that waits for this client alone.
func (t *trip) reserved() *origin {
	r := t.route
	if o := r.unbind(); o != nil {
		if t.origins.attach(o) != nil {
			return nil
		}
		return o
	}
	early := r.takeEarly()
	if early == nil {
		return nil
	}
	o, err := early.takeHTTP()
	if t.earlyErr = err; o == nil || t.origins.attach(o) != nil {
		return nil
	}
	if o.choseHTTP2() || o.s.pending() { // closed meanwhile, or not HTTP/1 after all
		t.origins.close(o)
		return nil
	}
	return o
}

// attempt sends the request on t.o and reads the head of the response. With errStale it has
// sent nothing.
func (t *trip) attempt() error {
	t.request.dst = t.o.s
	asks := t.o.reused && t.source == nil && t.o.s.ask(&t.request)
	if t.o.reused && !asks && !t.o.quiet() {
		return errStale
	}
	if t.ctx.Done() != t.clientDone { // a hook gave the request a context of its own
		t.unhook = onEnd(t.ctx, t.o.s.reset)
	}
	var sendErr error
	if !asks {
		sendErr = t.request.flush()
	}
	if sendErr == nil && t.source != nil {
		t.uploaded = make(chan error, 1)
		t.uploading.Store(uploadRuns)
		go t.upload()
	}
	// An origin that did not take the request may have said why.
	err := t.readResponse()
	if asks && err == errUnasked {
		return errStale
	}
	if asks {
		sendErr = t.o.s.askErr
	}
	if err != nil && t.o.s.isLoop() {
		return &OpError{Op: "dial", Addr: t.o.key.addr, Err: ErrLoop}
	}
	if err != nil && sendErr != nil {
		return &OpError{Op: "send request", Addr: t.o.key.addr, Err: sendErr}
	}
	if err != nil {
		return &OpError{Op: "read response", Addr: t.o.key.addr, Err: err}
	}
	if !t.o.reused {
		t.o.s.endGuard() // what answers is no loop
	}
	return nil
}

// upload sends the rest of the content. From then on the client is watched.
func (t *trip) upload() {
	err := t.sendContent()
	all := t.content != nil && t.content.ended() // of the client's, which others may read from now on
	t.sourceDone()
	switch {
	case err == nil:
		if all && !t.stopped.Load() {
			t.watch.arm()
		}
	case isSendError(err) && isTimeout(err): // nothing was taken for so long: there is no answer to wait for
		t.o.s.reset()
	case isSendError(err):
		if _, ok := t.owner.(*exchange); ok && !all { // an origin that takes no more may have answered
			t.client.ignore()
		}
	default:
		// The client stopped in the middle, and so do we: visibly.
		if !t.stopped.Load() {
			t.uploadErr = err
		}
		t.o.s.reset()
	}
	if !t.uploading.CompareAndSwap(uploadRuns, uploadEnded) {
		t.o.s.interrupt()
	}
	t.uploaded <- err
}

// sendContent survives the panic of a reader that a hook put in.
func (t *trip) sendContent() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = t.owner.panicked(v)
		}
	}()
	return t.request.send(t.source)
}

// sourceDone also survives a panic, of a closer that a hook put in.
func (t *trip) sourceDone() {
	defer func() {
		if v := recover(); v != nil {
			t.owner.panicked(v)
		}
	}()
	if s, ok := t.source.(interface{ done() }); ok {
		s.done()
	}
}

// uploadingStill reports whether content is yet to come from the client.
func (t *trip) uploadingStill() bool { return t.uploaded != nil && !t.request.complete.Load() }

// goesOn reports whether content is still to be sent although its response has come. That may mean
// no more than that the request is understood; an origin that wants no more content announces that
// it closes the connection (RFC 9112, section 9.6).
func (t *trip) goesOn() bool {
	return t.uploaded != nil && t.uploading.Load() != uploadEnded && !t.control.close && !t.declined()
}

// declined reports whether a client that waits for 100 (Continue) got a response after which it
// sends no content. A client that authenticates its connection does send it, to keep the
// connection.
func (t *trip) declined() bool {
	return t.expects && t.status.code >= 300 && !t.control.connectionBound
}

// mayWait reports whether the origin has time yet: it counts from the end of the upload.
func (t *trip) mayWait() bool {
	if t.uploaded == nil || t.sentBefore {
		return false
	}
	t.sentBefore = !t.uploadingStill()
	return true
}

// readResponse reads heads up to the final one and passes interim ones on.
func (t *trip) readResponse() error {
	for {
		t.o.s.readWithin(t.limits.responseTime)
		if err := t.readHead(); err != nil {
			return err
		}
		if t.uploaded != nil {
			t.clock.start(t.o.s, t.status.code/100 != 1)
		}
		if t.status.code == 101 && (!t.mayUpgrade() || !t.join()) { // a tunnel begins behind the content
			return errUpgrade
		}
		t.expects = t.expects && t.status.code != http.StatusContinue
		if t.status.code/100 != 1 || t.status.code == 101 {
			t.body.start(t.o.s, &t.control, t.limits.contentTime, t.limits.head)
			t.body.clock = t.clock
			return nil
		}
		if !t.interims.more() {
			return errInterim
		}
		if err := t.owner.interim(t); err != nil {
			return err
		}
	}
}

// asks takes down what w asks for, which is not there any more when it is answered.
func (t *trip) asks(w *rewrite) {
	if t.upgrade = w.upgrades(); t.upgrade {
		t.protocol = onlyProtocol(w.fields)
	}
}

// mayUpgrade reports whether a 101 answers what the request asks for. One that names no protocol means
// the one that there was to choose.
func (t *trip) mayUpgrade() bool {
	return t.upgrade && t.control.upgrade && (t.protocol != "" || hasField(t.head.fields, upgradeField))
}

// readHead reads and understands one response head.
func (t *trip) readHead() error {
	limits := t.limits.head
	b, err := t.o.s.readHead(limits.bytes)
	for isTimeout(err) && t.o.s.late() && t.mayWait() {
		t.o.s.readWithin(t.limits.responseTime)
		b, err = t.o.s.readHead(limits.bytes)
	}
	t.received = t.received || err == nil || err != errUnasked && len(t.o.s.buffered()) > 0
	if err == io.EOF && !t.received {
		err = errNoResponse
	}
	if err != nil {
		return err
	}
	if err := t.head.parse(b, true, limits.fields); err != nil {
		return err
	}
	if t.status, err = parseStatusLine(t.head.start); err != nil {
		return err
	}
	if err := t.control.read(t.head.fields); err != nil {
		return err
	}
	t.control.response(t.status.minor, t.status.code, t.method)
	return nil
}

// join ends the upload and reports whether it was complete.
func (t *trip) join() bool {
	if t.uploaded == nil {
		return true
	}
	t.stopped.Store(true)
	reads := t.client != nil && !t.watch.isArmed() // or the upload is not what reads from the client
	if reads {
		t.client.interrupt()
	}
	if t.stop != nil {
		t.stop()
	}
	t.o.s.hurry(uploadGrace)
	err := <-t.uploaded
	t.uploaded = nil
	t.o.s.calm()
	if reads {
		t.client.resume()
	}
	return err == nil
}

// abandon gives the connection up: in peace if all was said, else by a reset.
func (t *trip) abandon() {
	if t.o == nil {
		return
	}
	if t.body.ended() {
		t.o.s.close()
	} else {
		t.o.s.reset()
	}
	t.join()
	t.unwatch()
	t.origins.detach(t.o)
	t.o.s.drop()
	t.o = nil
}

// unwatch reports whether the context of the request left the connection alone.
func (t *trip) unwatch() bool {
	stopped := t.unhook == nil || t.unhook()
	t.unhook = nil
	return stopped
}

// finish ends the trip after the response was read, or given up. It keeps the connection
// if nothing speaks against it, and reports whether the request was sent completely. If wait is set it
// waits for that, for as long as the content moves and ContentTimeout.
func (t *trip) finish(wait bool) (sent bool) {
	if t.o == nil {
		return false
	}
	surplus := len(t.o.s.buffered()) > 0
	cut := !(wait && t.goesOn()) && t.uploadingStill() // in this order, or it may end in between
	if cut || !t.body.ended() || t.control.close || surplus {
		sent = !t.uploadingStill()
		t.abandon()
		return sent
	}
	quiet := !wait || t.awaitUpload()
	if sent = !t.uploadingStill() && t.join(); !sent || !quiet || !t.unwatch() {
		t.abandon()
		return sent && !quiet
	}
	t.keep()
	return true
}

// awaitUpload waits for the end of the upload and reports whether the origin was quiet meanwhile.
// If the origin closes the connection, or sends more than its answer, it does not wait.
func (t *trip) awaitUpload() (quiet bool) {
	if t.uploaded == nil || !t.uploading.CompareAndSwap(uploadRuns, uploadAwaited) {
		return true
	}
	t.o.s.readWithin(0)
	if err := t.o.s.fill(bufferSize); !isTimeout(err) {
		return false
	}
	err := <-t.uploaded
	t.uploaded <- err
	t.o.s.resume()
	return true
}

func (t *trip) keep() {
	o := t.o
	t.o = nil
	if t.clock != nil {
		t.clock.origin.CompareAndSwap(o.s, nil)
	}
	whole := t.origins.detach(o)
	o.s.release()
	o.bound = o.bound || t.bound || o.key.nest != nil || t.control.connectionBound
	switch {
	case !whole, o.bound && t.route.once:
		o.s.close()
	case o.bound:
		o.reused = true
		t.route.bind(o)
		t.route.settle(o, t.origins.pool)
	default:
		t.origins.pool.put(o)
	}
}

// takeOrigin hands the connection over to a relay after a 101, which ended the upload.
func (t *trip) takeOrigin() *origin {
	t.unwatch()
	o := t.o
	t.o = nil
	return o
}
