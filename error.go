package mitm

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
)

// ErrProxyClosed is returned by [Proxy.Serve] and its siblings after [Proxy.Shutdown]
// or [Proxy.Close].
var ErrProxyClosed = errors.New("mitm: proxy closed")

// ErrRejected is what a [Flow] of a refused destination ends with: a [ConnHook]
// answered [Reject], or the check of [CheckedDial] returned an error. HTTP clients are
// told 403 (Forbidden), SOCKS5 clients reply 2, others get a reset. An [HTTPHook] may
// return it too.
var ErrRejected = errors.New("destination rejected")

// ErrCredentials is what a [Flow] ends with whose client sent no or wrong credentials.
var ErrCredentials = errors.New("no or wrong proxy credentials")

// ErrLoop is a destination that is the proxy itself, or a request whose Via field says that
// it came by already.
var ErrLoop = errors.New("destination is the proxy itself")

// ErrNotRedirected is a connection to a transparent proxy that no firewall rule led there:
// somebody connected to the proxy itself. It is refused by a reset.
var ErrNotRedirected = errors.New("connection was not redirected")

// ErrClientGone is a client that left before its response was complete. In an exchange that
// takes more than 100 ms, closing the sending side counts as leaving; a tunnel passes
// it on.
var ErrClientGone = errors.New("client closed the connection")

// ErrCertificateRefused is a client that does not accept the certificate that it was shown: it does not
// trust the [CA], or insists on another certificate. It says so by a TLS alert, or, as many do,
// closes the connection in the handshake, or after it without sending anything. Closing alone counts
// from the second time within ten minutes on, if the client has sent nothing to that name meanwhile.
var ErrCertificateRefused = errors.New("client refused the certificate")

// ErrUnread is what a [Flow] ends with that was refused because hooks could not have read it: neither
// HTTP nor TLS came of what the client began with, or its ClientHello is one that the proxy can't
// continue. It is refused where TLS is terminated, and where an [HTTPHook] or a Transport is to see all
// HTTP. A [ConnHook] that answers [Tunnel] lets it pass. See [RefuseUnread].
var ErrUnread = errors.New("not in a form that hooks could read")

// OpError says at which step of a connection's way an error came up, and where.
type OpError struct {
	// Op is the step: "accept", "mode", "client tls", "read request", "dial", "tls" (with the
	// origin), "send request", "read response", "send response", "hook" or "relay".
	Op string
	// Addr is the host and port that the step was about, if there is one.
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

// requestStatus is what a client is told of a request that could not be read.
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

// failureStatus is what a client is told of a request that failed at any step.
func failureStatus(err error) int {
	var op *OpError
	if errors.As(err, &op) && op.Op == "read request" {
		return requestStatus(err)
	}
	return exchangeStatus(err)
}

// exchangeStatus is what a client is told of a request that got no response.
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

// isTimeout says whether err is that of a deadline, of a connection or of a context.
func isTimeout(err error) bool {
	if err == nil {
		return false
	}
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, context.DeadlineExceeded)
}
