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
	// HookConn is asked once for every destination that a client connection names,
	// by its [Mode], by CONNECT, to another proxy too, or by the authority of a request target,
	// before anything is dialled there. If all answer Default and the protocol is not known yet, it is
	// asked again when it is, see [Conn.Protocol], of TLS with the ClientHello in hand; not for
	// a CONNECT if there is no certificate to open TLS with: it is tunnelled then, unless there is
	// [RefuseUnread]. What is inside TLS is no new destination, whatever it names; but if it is [Other],
	// hooks are asked once more, even if one has answered Intercept. It is not asked about destinations that an HTTPHook names; [CheckedDial]
	// is. It may change c.Destination, but not its Protocol. Of several hooks the first that
	// answers anything but Default decides. An error is Reject with a reason, which goes to
	// [Flow.Err] and not to the client.
	//
	// The Flow in ctx, see [FlowFromContext], is the exchange or tunnel that named the
	// destination. On a connection with a destination of its own that turns out to speak
	// HTTP it is that of no exchange, and no [DoneHook] gets it; each request has its own.
	HookConn(ctx context.Context, c *Conn) (Action, error)
}

// Action is what a [ConnHook] decides.
type Action uint8

const (
	// Default leaves the decision to the next hook and in the end to the proxy: HTTP is
	// read, TLS is opened if there is a [Proxy.CA], and without one a CONNECT is tunnelled.
	Default Action = iota
	// Intercept reads what is inside a tunnel, if it is a protocol that the proxy
	// speaks; anything else is relayed if hooks answer no different when they are asked about [Other]. TLS
	// is opened if there is a certificate for it.
	Intercept
	// Tunnel relays without looking. A request that came in the clear is forwarded
	// past all HTTPHooks.
	Tunnel
	// Reject refuses in the client's protocol: 403 (Forbidden) in HTTP, also inside TLS that
	// can be opened, reply 2 in SOCKS5, a reset where nothing can be said.
	Reject
)

// HTTPHook wraps the exchange of one request for one response.
type HTTPHook interface {
	// HookHTTP is called once, before the first connection is served. The returned
	// RoundTripper sees every exchange: it may answer itself, change the request
	// before it calls next, change the response after, or call next more than once.
	// The first hook in [Proxy.Hooks] is the outermost.
	//
	// req.URL is where the request goes, req.Host what the client called it: changing
	// URL.Host sends the request to another destination, changing Host changes the
	// Host field. A CONNECT is seen where it goes to another proxy, which the connection leads to: it can
	// be refused, but not sent elsewhere, and what is inside comes as requests of its own. Fields that concern one hop only were taken out of req.Header; what
	// frames the content is computed anew from Body and ContentLength. A Body that was read
	// from must be replaced. A replaced one whose ContentLength was not changed is measured if
	// it has up to 72 KiB and sent in chunks if it has more; its Close must end a Read that
	// waits. To close the Body that next returned cuts a response that another goroutine reads,
	// or that the proxy is sending. Trailers are there when the content was read to its end. After
	// the response was sent, next fails.
	//
	// An error is answered with 504 (Gateway Timeout) if it is a timeout, 403 (Forbidden) if
	// it is [ErrRejected], else 502 (Bad Gateway); its text is sent to the client, except
	// for ErrRejected, so it must hold no secret. http.ErrAbortHandler resets the connection.
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

// OnRequest makes an [HTTPHook] of a function that sees every request before it goes
// out and may change it. If it returns a response, that is the answer, and the request reaches no
// origin; that none is dialled ahead of the request either is for [Destination] to say. For errors see [HTTPHook].
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

func sortHooks(list []Hook, transport http.RoundTripper) (*hooks, error) {
	h := new(hooks)
	if transport != nil {
		h.http = engine{transport}
	}
	for i := len(list) - 1; i >= 0; i-- {
		known := false
		if hook, ok := list[i].(HTTPHook); ok {
			known = true
			if h.http == nil {
				h.http = engine{nil}
			}
			h.http = hook.HookHTTP(follower{h.http})
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
			_, refuses := hook.(refuseUnread)
			h.unreadRefused = h.unreadRefused || refuses
		}
		if hook, ok := hook.(DoneHook); ok {
			h.done = append(h.done, hook)
		}
	}
	return h, nil
}

func isConnOrDone(hook Hook) bool {
	_, conn := hook.(ConnHook)
	_, done := hook.(DoneHook)
	return conn || done
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
