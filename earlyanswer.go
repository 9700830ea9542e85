package mitm

// This file is about request content that is still being sent when its call of the engine has
// returned a response, and perhaps when that response is complete.

// isPending reports whether only content keeps t from its end.
func (t *hookedTrip) isPending() bool {
	return t.o != nil && t.body.ended() && (t.closed || t.goesOn())
}

// sends reports whether content is being sent, in either version, and is not to be cut.
func (t *hookedTrip) sends() bool {
	if t.up != nil { // which net/http stops if the answer is an error
		return !t.up.closed.Load() && t.status.code < 300
	}
	return t.goesOn()
}

// uploadsOwn reports whether the client's own content is still being sent. A hook that wants that
// content does not wait for it.
func (t *hookedTrip) uploadsOwn() bool { return t.isPending() && t.closed && t.uploads() }

// isBound reports whether the connection is to be kept for this client alone, and only content
// holds it up.
func (t *hookedTrip) isBound() bool {
	return t.isPending() && (t.bound || t.control.connectionBound)
}

// eachReturned calls f with the calls of the engine that have returned, except for those whose
// response is just being read. In most exchanges none of them has content left to send.
func (h *hookedExchange) eachReturned(f func(*hookedTrip)) {
	if !h.uploads.Load() {
		return
	}
	for t := h.lastReturned(); t != nil; t = t.previous {
		if !h.isRunning(t) && t.mu.TryLock() {
			f(t)
			t.mu.Unlock()
		}
	}
}

// settle ends those calls, after their content has been sent if wait is set, and reports whether
// there were any.
func (h *hookedExchange) settle(wait bool, which func(*hookedTrip) bool) {
	h.eachReturned(func(t *hookedTrip) {
		if which(t) {
			t.close()
			t.settle(wait)
		}
	})
}

// contentGoesOn reports whether the client's content is still being sent.
func (h *hookedExchange) contentGoesOn() (goesOn bool) {
	h.eachReturned(func(t *hookedTrip) { goesOn = goesOn || t.sends() })
	return goesOn
}

// awaitContent waits for content that is still being sent after the client has got the response.
func (h *hookedExchange) awaitContent() {
	h.settle(true, (*hookedTrip).isPending)
	h.eachReturned((*hookedTrip).awaitHTTP2)
	if !h.closing {
		h.drain() // of what a hook put in its place; it could not be done as long as that went on
	}
}

// awaitHTTP2 does the same in HTTP/2, where a stream ends when both directions are complete, or
// when the content stalls.
func (t *hookedTrip) awaitHTTP2() {
	if t.up == nil || !t.up.ended.Load() || t.up.closed.Load() {
		return
	}
	t.up.sweeper.watch(t.up)
	defer t.up.sweeper.forget(t.up)
	select {
	case <-t.up.through:
	case <-t.ctx.Done():
	}
}
