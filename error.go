package mitm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// ErrProxyClosed is returned by [Proxy.Serve] and its siblings after [Proxy.Shutdown]
// or [Proxy.Close].
var ErrProxyClosed = errors.New("mitm: proxy closed")

// ErrRejected is what a [Flow] of a refused destination ends with: a [ConnHook] answered [Reject],
// or the check of [CheckedDial] returned an error. HTTP clients are sent 403 (Forbidden), SOCKS5
// clients reply 2, others get a reset. An [HTTPHook] may return it too.
var ErrRejected = errors.New("destination rejected")

// ErrCredentials is what a [Flow] ends with whose client sent no or wrong credentials.
var ErrCredentials = errors.New("no or wrong proxy credentials")

// ErrLoop reports a destination that is the proxy itself, or a request whose Via field shows that
// the proxy has forwarded it already.
var ErrLoop = errors.New("destination is the proxy itself")

// ErrNotRedirected reports a connection to a transparent proxy that no firewall rule led there:
// somebody connected to the proxy itself. It is refused by a reset.
var ErrNotRedirected = errors.New("connection was not redirected")

// ErrClientGone reports a client that left before its request or its response was complete, or that
// reset a tunnel; the [OpError] around it has the step at which that was noticed. In an exchange that
// takes more than 100 ms, closing the sending side counts as leaving; a tunnel passes it on.
var ErrClientGone = errors.New("client closed the connection")

// ErrCertificateRefused reports a client that did not accept the certificate that it was shown: it
// does not trust the [CA], or insists on another certificate. Such a client sends a TLS alert or,
// as many do, closes the connection during the handshake, or after it without having sent anything.
// Closing alone counts only from the second time within ten minutes on, and only if the client has
// sent nothing to that name meanwhile.
var ErrCertificateRefused = errors.New("client refused the certificate")

// ErrUnread is in the [Flow.Err] of a connection that was refused because hooks could not have read
// it: the client's first bytes became neither HTTP nor TLS, crypto/tls refuses its ClientHello, or a hook
// redirected a client whose server spoke first, before that client had shown what it speaks.
// Such a connection is refused where TLS is terminated, and where an [HTTPHook] or a
// [Proxy.Transport] is to see all HTTP. A [ConnHook] that answers [Tunnel] lets it pass.
// [RefuseUnread] refuses more.
var ErrUnread = errors.New("not in a form that hooks could read")

// OpError reports the step that failed, and by that also whose fault it was.
type OpError struct {
	// Op is the step. "read request", "client tls" and "send response" failed at the client;
	// "dial", "tls", "send request" and "read response" at the origin server or on the way there.
	// "hook" is a [ConnHook] or an [HTTPHook], content that it put in place included, "transport"
	// is [Proxy.Transport], its content included, "handler" an [Explicit.Handler] or a
	// [Destination.Handler], "mode" a [Mode]. "relay" is a tunnel, where the client is to blame if
	// Err is [ErrClientGone], else the other side. "accept" is a listener.
	//
	// Whatever the step, Err is [ErrClientGone] if it was given up because the client had left,
	// [ErrProxyClosed] if because of [Proxy.Close], and the cause of the context of
	// [Proxy.ServeConn] if that ended.
	Op string
	// Addr is the host and port of the destination that the step was about, if there is one.
	Addr string
	// Err is the error itself.
	Err error
}

// Error implements error.
func (e *OpError) Error() string {
	if e.Addr == "" {
		return e.Op + ": " + e.Err.Error()
	}
	return e.Op + " " + e.Addr + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *OpError) Unwrap() error { return e.Err }

// Timeout reports whether a deadline of the step passed.
func (e *OpError) Timeout() bool { return isTimeout(e.Err) }

// errLineTooLong is a request line beyond Proxy.MaxRequestLine.
var errLineTooLong = errors.New("request line too long")

// requestStatus is the status for a request that could not be read.
func requestStatus(err error) int {
	switch {
	case errors.Is(err, errLineTooLong):
		return http.StatusRequestURITooLong
	case errors.Is(err, errHeadTooLarge), errors.Is(err, errTooManyFields):
		return http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(err, errVersion):
		return http.StatusHTTPVersionNotSupported
	case errors.Is(err, errScheme), errors.Is(err, errCoding):
		return http.StatusNotImplemented
	case isTimeout(err):
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}

// failureStatus is the status for a request that failed at any step.
func failureStatus(err error) int {
	var op *OpError
	if errors.As(err, &op) && op.Op == "read request" {
		return requestStatus(err)
	}
	return exchangeStatus(err)
}

// exchangeStatus is the status for a request that got no response.
func exchangeStatus(err error) int {
	var dns *net.DNSError
	switch {
	case errors.Is(err, ErrRejected):
		return http.StatusForbidden
	case errors.As(err, &dns):
		return http.StatusBadGateway
	case isTimeout(err):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// clientGone marks err, of reading from the client or of writing to it, as ErrClientGone if it shows
// that the client has left.
func clientGone(err error) error {
	if err == nil || errors.Is(err, ErrClientGone) || !isGone(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrClientGone, err)
}

// isGone reports whether err, of a connection, says that the other side has ended it.
func isGone(err error) bool {
	for _, end := range [...]error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed} {
		if errors.Is(err, end) {
			return true
		}
	}
	const ownAlert = "local error" // of crypto/tls: the other side has sent what is no TLS
	op, system := (*net.OpError)(nil), syscall.Errno(0)
	return !isTimeout(err) && (errors.As(err, &op) && op.Op != ownAlert || errors.As(err, &system))
}

// isTimeout reports whether err is that of a deadline, of a connection or of a context.
func isTimeout(err error) bool {
	if err == nil {
		return false
	}
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, context.DeadlineExceeded)
}
