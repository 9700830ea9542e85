package mitm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// Hook is a value that implements one or more of [ConnHook], [HTTPHook],
// [MessageHook] and [DoneHook]. A value with none of them makes Serve return an error.
// Hooks are called by many goroutines at once.
type Hook any

// ConnHook decides about destinations.
type ConnHook interface {
	// HookConn is called once for each destination that a client connection names: by its [Mode],
	// by CONNECT (also one to another proxy), or by the authority of a request target. It is called
	// before anything is dialled there. If every hook answers Default, it is called again once the
	// protocol is known, see [Conn.Protocol]; for TLS the ClientHello is then available. There is
	// no second call for a CONNECT if the proxy has no certificate to terminate TLS with: the
	// connection is tunnelled, unless [RefuseUnread] is among the hooks. Requests inside TLS name
	// no new destination, whatever their Host field holds. If the protocol inside TLS is [Other],
	// HookConn is called once more. For [Other], and for TLS that can't be terminated, it is called
	// even if a hook has answered Intercept. Destinations that an HTTPHook chose are not passed to
	// HookConn, only to [CheckedDial].
	//
	// HookConn may change c.Destination, but not its Protocol. Of several hooks the first that
	// answers anything but Default decides. An error is Reject with a reason, which goes to
	// [Flow.Err] and not to the client.
	//
	// The Flow in ctx, see [FlowFromContext], is the exchange or tunnel that named the destination.
	// If a connection with a destination of its own turns out to speak HTTP, this Flow belongs to
	// no exchange and is never passed to a [DoneHook]; each request has a Flow of its own.
	HookConn(ctx context.Context, c *Conn) (Action, error)
}

// Action is what a [ConnHook] decides.
type Action uint8

const (
	// Default leaves the decision to the next hook and in the end to the proxy: HTTP is read, TLS
	// is terminated if there is a [Proxy.CA], and without one a CONNECT is tunnelled.
	Default Action = iota
	// Intercept reads what is inside a tunnel, if it is a protocol that the proxy speaks. Anything
	// else is relayed, unless a hook rejects it when called about [Other]. TLS is terminated if
	// there is a certificate for it.
	Intercept
	// Tunnel relays without looking. A cleartext request is forwarded past all HTTPHooks.
	Tunnel
	// Reject refuses in the client's protocol: 403 (Forbidden) in HTTP, also inside TLS that can be
	// terminated, reply 2 in SOCKS5, a reset where nothing can be said.
	Reject
)

// HTTPHook wraps the exchange of one request for one response.
type HTTPHook interface {
	// HookHTTP is called once, before the first connection is served. The returned RoundTripper
	// sees every exchange: it may answer itself, change the request before it calls next, change
	// the response after, or call next more than once. The first hook in [Proxy.Hooks] is the
	// outermost.
	//
	// req.URL is where the request goes, req.Host what the client called it: changing URL.Host
	// sends the request to another destination, changing Host changes the Host field. A CONNECT is
	// passed to HTTPHooks only if the connection's destination is another proxy: they can refuse
	// it, but not send it elsewhere. Requests inside the tunnel are exchanges of their own. Fields
	// that concern one hop only were taken out of req.Header; the framing of the content is
	// computed anew from Body and ContentLength.
	//
	// A hook that reads Body must replace it. If it leaves ContentLength unchanged, the proxy reads
	// up to 72 KiB ahead: if that is all of the content, it is sent with a Content-Length,
	// otherwise chunked. Close of a replacement Body, of a request or of a response, must unblock a
	// pending Read: when the client has left, or the proxy closes, it is called while Read may be
	// waiting. Closing the Body that next returned aborts the response, even while another
	// goroutine reads it or the proxy sends it. Trailer is filled in when Body returns io.EOF. next
	// fails once the response has been sent.
	//
	// An error is answered with 504 (Gateway Timeout) if it is a timeout, 403 (Forbidden) if it is
	// [ErrRejected], else 502 (Bad Gateway); its text is sent to the client, except for
	// ErrRejected, so it must hold no secret.
	//
	// [http.ErrAbortHandler], returned, panicked with, or as the error of a Body's Read, is no
	// answer. An HTTP/1 client sees its connection reset (TCP RST; inside TLS that is terminated no
	// close_notify comes either), also where it speaks inside a CONNECT or a SOCKS5 tunnel, which
	// ends with the connection. An HTTP/2 client sees RST_STREAM with INTERNAL_ERROR; its other
	// streams go on. HTTP/1 inside an HTTP/2 CONNECT stream resets that stream.
	HookHTTP(next http.RoundTripper) http.RoundTripper
}

// MessageHook sees WebSocket messages. Messages are not taken apart yet, so Serve
// refuses a MessageHook with an error that wraps [errors.ErrUnsupported].
type MessageHook interface {
	// HookMessage may change m before it goes on.
	HookMessage(ctx context.Context, m *Message) error
}

// Message is one WebSocket message (RFC 6455, section 5.6).
type Message struct {
	// FromClient tells the direction.
	FromClient bool
	// Binary is opcode 2; otherwise the message is text.
	Binary bool
	// Data is the message, unmasked and joined from its fragments.
	Data []byte
}

// DoneHook is told how things ended.
type DoneHook interface {
	// HookDone is called exactly once for every exchange and every tunnel, failures
	// included, after its last byte. A CONNECT is over when its connection is, also if
	// exchanges were seen inside. The Flow does not change any more and may be kept.
	HookDone(f *Flow)
}

// OnConn makes a [ConnHook] of a function.
func OnConn(f func(ctx context.Context, c *Conn) (Action, error)) Hook { return connFunc(f) }

// OnRequest makes an [HTTPHook] of a function that sees every request before it goes out and may
// change it. If it returns a response, that is the answer, and the request reaches no origin; one
// may have been dialled already, see [Destination.DialLate]. For errors see [HTTPHook].
func OnRequest(f func(req *http.Request) (*http.Response, error)) Hook { return requestFunc(f) }

// OnResponse makes an [HTTPHook] of a function that sees every response before it goes
// to the client and may change it. For errors see [HTTPHook].
func OnResponse(f func(res *http.Response) error) Hook { return responseFunc(f) }

// OnMessage makes a [MessageHook] of a function.
func OnMessage(f func(ctx context.Context, m *Message) error) Hook { return messageFunc(f) }

// OnDone makes a [DoneHook] of a function.
func OnDone(f func(f *Flow)) Hook { return doneFunc(f) }

type (
	connFunc     func(context.Context, *Conn) (Action, error)
	requestFunc  func(*http.Request) (*http.Response, error)
	responseFunc func(*http.Response) error
	messageFunc  func(context.Context, *Message) error
	doneFunc     func(*Flow)
)

func (f connFunc) HookConn(ctx context.Context, c *Conn) (Action, error) { return f(ctx, c) }
func (f messageFunc) HookMessage(ctx context.Context, m *Message) error  { return f(ctx, m) }
func (f doneFunc) HookDone(flow *Flow)                                   { f(flow) }
func (f requestFunc) HookHTTP(next http.RoundTripper) http.RoundTripper  { return requestStep{f, next} }
func (f responseFunc) HookHTTP(next http.RoundTripper) http.RoundTripper {
	return responseStep{f, next}
}

// requestStep is one layer of the onion.
type requestStep struct {
	hook requestFunc
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s requestStep) RoundTrip(req *http.Request) (*http.Response, error) {
	if res, err := s.hook(req); res != nil || err != nil {
		return res, err
	}
	return s.next.RoundTrip(req)
}

// responseStep is one layer of the onion.
type responseStep struct {
	hook responseFunc
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s responseStep) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := s.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.Request == nil {
		res.Request = req
	}
	if err := s.hook(res); err != nil {
		if res.Body != nil {
			res.Body.Close()
		}
		return nil, err
	}
	return res, nil
}

// hooks is what Proxy.Hooks come to, sorted by what they implement.
type hooks struct {
	conn []ConnHook
	done []DoneHook
	http http.RoundTripper // the onion with the engine in the middle; nil: nothing hooks HTTP

	unreadRefused bool // see RefuseUnread
}

func (p *Proxy) sortHooks() (*hooks, error) {
	h, list := new(hooks), p.Hooks
	if p.Transport != nil {
		h.http = engine{transportStep{p.Transport, p.panicked}}
	}
	for i := len(list) - 1; i >= 0; i-- {
		known := false
		if hook, ok := list[i].(HTTPHook); ok {
			known = true
			if h.http == nil {
				h.http = engine{nil}
			}
			if h.http = wrap(hook, follower{h.http}); h.http == nil {
				return nil, fmt.Errorf("mitm: hook %d: HookHTTP of %T panicked, or returned nothing", i, hook)
			}
		}
		if _, ok := list[i].(MessageHook); ok {
			return nil, fmt.Errorf("mitm: message hooks: %w", errors.ErrUnsupported)
		}
		if !known && !isConnOrDone(list[i]) {
			return nil, fmt.Errorf("mitm: hook %d: %T implements no hook interface", i, list[i])
		}
	}
	for _, hook := range list {
		if hook, ok := hook.(ConnHook); ok {
			h.conn = append(h.conn, hook)
			_, refuses := hook.(interface{ refusesUnread() })
			h.unreadRefused = h.unreadRefused || refuses
		}
		if hook, ok := hook.(DoneHook); ok {
			h.done = append(h.done, hook)
		}
	}
	return h, nil
}

// wrap calls HookHTTP, whose panic it survives: nothing but Serve is there to notice.
func wrap(hook HTTPHook, next http.RoundTripper) (rt http.RoundTripper) {
	defer func() {
		if recover() != nil {
			rt = nil
		}
	}()
	return hook.HookHTTP(next)
}

func isConnOrDone(hook Hook) bool {
	_, conn := hook.(ConnHook)
	_, done := hook.(DoneHook)
	return conn || done
}

// transportStep is Proxy.Transport in the engine's place.
type transportStep struct {
	http.RoundTripper
	panicked func(op string, v any) error
}

// RoundTrip implements http.RoundTripper. It gives errors their step, and remembers whose content it
// is.
func (s transportStep) RoundTrip(req *http.Request) (res *http.Response, err error) {
	defer func() {
		if v := recover(); v == http.ErrAbortHandler {
			err = http.ErrAbortHandler
		} else if v != nil {
			err = s.panicked("transport", v)
		}
		err = asOpError("transport", addrOf(req), err)
	}()
	if res, err = s.RoundTripper.RoundTrip(req); res == nil && err == nil {
		err = errNoResult
	}
	if flow := FlowFromContext(req.Context()); flow != nil && res != nil {
		if h := flow.origin; h != nil {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.theirs = res.Body
		}
	}
	return res, err
}

// addrOf returns the host and port that a request goes to, "" if its URL has no host.
func addrOf(req *http.Request) string {
	if req.URL == nil || req.URL.Host == "" {
		return ""
	}
	return addrOfURL(req.URL)
}

// engine is what is at the end of the chain: the proxy's own transport, or one in its place, which
// is not for destinations that a Handler answers at.
type engine struct{ transport http.RoundTripper }

// RoundTrip implements http.RoundTripper for requests that came from a client of a
// proxy. It may be called more than once for one of them.
func (e engine) RoundTrip(req *http.Request) (*http.Response, error) {
	flow := FlowFromContext(req.Context())
	known := flow != nil && flow.origin != nil
	switch {
	case e.transport != nil && !(known && flow.origin.answersHere(req)):
		return e.transport.RoundTrip(req)
	case !known:
		return nil, errors.New("mitm: the request has not come through the proxy")
	}
	return flow.origin.RoundTrip(req)
}
