package mitm

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// Flow is one exchange of a request for a response, or one tunnel. Hooks find it by
// [FlowFromContext]; fields are set as the flow goes on and are complete when a
// [DoneHook] gets it. Until then only hooks that were called for the flow may read them.
type Flow struct {
	// ID counts from 1 within a Proxy.
	ID uint64
	// Conn is the client connection with the destination that the client named and the
	// ConnHooks decided about: zero if the client named none that could be understood. It
	// is never nil. An HTTPHook that changes URL.Host does not show in it.
	Conn *Conn
	// Tunnel is set if bytes were relayed unread: after a CONNECT, an Upgrade, or for
	// a protocol that is only relayed.
	Tunnel bool

	// Start is when the first byte of the request was there, Answered when the head
	// of the response was known (zero: never), End when all was over.
	Start, Answered, End time.Time

	// Method and URL are those of the request as it came. On a connection that has a destination,
	// of its own or by CONNECT, URL consists of that destination and of the request's path, such as
	// https://192.0.2.1/path: the client's Host field, :authority and server name decide nothing
	// there and are not in it. Otherwise URL is the request's target, or the authority of a
	// CONNECT. Only a request that names no destination, and is refused or answered by the proxy
	// itself, has its Host field there. Both are empty if the request could not be parsed, and for
	// a tunnel that no HTTP request asked for.
	Method, URL string
	// Head is the head of an HTTP/1 request that was refused because it is malformed or too large,
	// or that was never complete, byte for byte as it came: the request line, the fields, and the
	// empty line if it was there, but no more than 64 KiB. It may hold credentials. It is nil for
	// every other request, and for all of HTTP/2: net/http, which reads those, does not show what
	// it refuses.
	Head []byte
	// VerifiedName is the name that the origin's certificate was, or will be, verified for. It is
	// the only name that a secret may depend on: Host, URL and Conn.ServerName are what the client
	// claims, and an address may belong to somebody else. A name is in lower case, without a
	// trailing dot; an address has no brackets. If the OriginTLS of the Destination, or else of the
	// Proxy, has a ServerName, that is the name.
	//
	// It is empty if no certificate is verified, or not by the proxy: in cleartext, in tunnels that
	// are relayed unread, with a Handler or a [Proxy.Transport], with InsecureSkipVerify (even if
	// there is a VerifyConnection) and with [Proxy.StartTLS].
	//
	// An HTTPHook finds it set before it calls next. If the hook changes URL.Host, the hooks behind
	// it find the name of the new destination; once next has returned, VerifiedName is that of the
	// last one. So a hook that adds a secret belongs behind all that may change URL.Host. A
	// ConnHook finds the name that would be verified if the Destination stayed as it is. A client
	// certificate in its OriginTLS is a secret too: set a ServerName beside it.
	VerifiedName string
	// Status is the status that the client was sent, 0 if none.
	Status int

	// Request and Response are what went through the HTTPHooks, as they left them;
	// nil where there is none. Their bodies are consumed.
	Request  *http.Request
	Response *http.Response

	// RequestFields are the names of the request's header fields, in the order and the
	// spelling in which they are sent; a name that the Header lacks is skipped, a field
	// that is not listed comes last. They start as received and a hook may change them.
	// ResponseFields are the same for the response, known once next.RoundTrip returned.
	// Both are nil without an HTTPHook or a Transport. Each is nil if its message arrived over
	// HTTP/2, where order and spelling are not preserved.
	RequestFields, ResponseFields []string

	// Err is what went wrong; nil if the exchange or tunnel ended as it should.
	Err error

	up, down atomic.Int64
	origin   *hookedExchange // what is behind the hooks
}

// Sent is the number of bytes of content, or of a tunnel, that came from the client. In a
// tunnel it is live, in an exchange 0 until the content has passed. It may be called by any
// goroutine.
func (f *Flow) Sent() int64 { return f.up.Load() }

// Received is the number of bytes of content, or of a tunnel, that went to the client. In a
// tunnel it is live, in an exchange 0 until the content has passed. It may be called by any
// goroutine.
func (f *Flow) Received() int64 { return f.down.Load() }

type flowKey struct{}

// FlowFromContext returns the flow that a hook was called for, given the ctx of
// HookConn or of the http.Request; nil if ctx is no such context.
func FlowFromContext(ctx context.Context) *Flow {
	f, _ := ctx.Value(flowKey{}).(*Flow)
	return f
}

func withFlow(ctx context.Context, f *Flow) context.Context {
	return &flowContext{ctx, f}
}

// flowContext is a context in which the flow is found. Unlike that of context.WithValue it can be
// part of something else.
type flowContext struct {
	context.Context
	flow *Flow
}

// Value implements context.Context.
func (c *flowContext) Value(key any) any {
	if key == (flowKey{}) {
		return c.flow
	}
	return c.Context.Value(key)
}
