package mitm

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

// This file recognises clients that do not accept the certificate that they are shown. Their TLS
// libraries show that in several ways:
//
//   - an alert, of any description: it says why the certificate is refused, or that the library
//     can't tell. Some libraries send it only when the handshake is complete for us.
//   - the end of the connection, or a reset, during the handshake (Node, s2n, GNOME, BearSSL).
//   - a complete handshake that no byte follows (wget, GnuTLS, clients that compare a pin
//     afterwards).
//
// A client that changes its mind, or has opened a connection in advance, does the latter two as
// well. So they only raise a suspicion, which the next one of the kind confirms.
//
// A resumed session shows no certificate, so no handshake that resumes one fails for the
// certificate. But a client that compares a pin afterwards does so in every session.

// Errors of handshakes that came to nothing.
var (
	errLeftHandshake = errors.New("client closed the connection when it was shown the certificate")
	errLeftUnused    = errors.New("client closed the connection after the handshake, without sending anything")
	errEarlyData     = errors.New("client sent early data of an earlier session with the origin, which can't be read (RFC 8446, section 4.2.10)")
)

// handshakeFailed gives an error of the client's handshake its step.
func (op *opening) handshakeFailed(err error) error {
	switch {
	case isCertificateAlert(err), op.shown && isComplaint(err):
		return op.refused(err)
	case op.shown && isHangUp(err):
		return op.suspected(fmt.Errorf("%w: %w", errLeftHandshake, err))
	case err.Error() == "tls: client sent unexpected early data": // crypto/tls has no error for it
		err = errEarlyData
	}
	return op.failed(err)
}

// judge looks at how a connection ended after the handshake, with err, and gives it a reason if
// nothing was said on it. Errors of other steps may be the origin's.
func (op *opening) judge(err error) error {
	c := op.c
	if op.spoke || c.moved || err == errIsHTTP && !c.hasEnded || c.state.Load() == clientClosed {
		return err
	}
	var step *OpError
	ours := errors.As(err, &step) && step.Op == clientTLSStep
	switch {
	case ours && isCertificateAlert(step.Err):
		return op.refused(step.Err)
	case c.hasEnded, ours && (isHangUp(step.Err) || isComplaint(step.Err)):
		return op.unused(err)
	case err == nil:
		return op.failed(errIdle)
	}
	return err
}

// unused is a connection that the client has closed without sending anything. cause, if not nil, is
// what came of it here.
func (op *opening) unused(cause error) error {
	if op.flow != nil {
		op.flow.Tunnel = false
	}
	suspicion := op.suspected(errLeftUnused)
	var step *OpError
	if errors.As(cause, &step) && step.Op != "relay" && step.Op != clientTLSStep && !errors.Is(suspicion, ErrCertificateRefused) {
		return cause // the origin could not be reached
	}
	return suspicion
}

// accepted notes that the client has sent something inside TLS.
func (op *opening) accepted() {
	op.spoke = true
	op.c.p.distrusts.accept(op.c.distrust(op.conn))
}

func (op *opening) refused(err error) error {
	op.c.p.distrusts.put(op.c.distrust(op.conn))
	return op.failed(fmt.Errorf("%w: %w", ErrCertificateRefused, err))
}

// suspected returns err, what the client did, as a refusal if it is not the first time.
func (op *opening) suspected(err error) error {
	if op.c.p.distrusts.suspect(op.c.distrust(op.conn), op.since) {
		return op.refused(err)
	}
	return op.failed(err)
}

// clientTLSStep is the OpError.Op of the TLS with clients.
const clientTLSStep = "client tls"

func (op *opening) failed(err error) error {
	return op.c.blame(&OpError{Op: clientTLSStep, Addr: op.conn.Destination.Addr, Err: err})
}

// isComplaint reports whether err is an alert by which the peer says that something is wrong. A
// close_notify does not, nor does user_canceled.
func isComplaint(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error" && !isAlert(err, 0, 90)
}

// isHangUp reports whether err is the peer's end of a connection, or its reset.
func isHangUp(err error) bool {
	if isTimeout(err) || errors.Is(err, net.ErrClosed) {
		return false
	}
	var system *os.SyscallError
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.As(err, &system) || errors.As(err, &op) && (op.Op == "read" || op.Op == "write")
}
