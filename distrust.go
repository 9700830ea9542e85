package mitm

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// certificateAlerts are the alerts by which a client says that it is the certificate that it
// does not accept (RFC 8446, section 6.2).
var certificateAlerts = []tls.AlertError{
	42, // bad_certificate
	43, // unsupported_certificate
	44, // certificate_revoked
	45, // certificate_expired
	46, // certificate_unknown
	48, // unknown_ca
}

// isCertificateAlert reports whether err is one of them, sent by the peer. crypto/tls does not
// export its type, but its text is that of a tls.AlertError.
func isCertificateAlert(err error) bool { return isAlert(err, certificateAlerts...) }

// isNoProtocol reports whether the peer speaks none of the protocols that it was offered (RFC
// 7301, section 3.2).
func isNoProtocol(err error) bool { return isAlert(err, 120) }

func isAlert(err error, alerts ...tls.AlertError) bool {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || op.Err == nil {
		return false
	}
	return slices.ContainsFunc(alerts, func(alert tls.AlertError) bool { return op.Err.Error() == alert.Error() })
}

// distrust is a client that does not accept the certificate of a name.
type distrust struct{ client, name, addr string }

func (d distrust) isLong() bool { return len(d.name)+len(d.addr) > maxKeyNames }

// distrusts remembers for a while which clients have refused our certificates, if the embedder
// wants that, and which seem to have.
type distrusts struct {
	life    time.Duration // 0 or less: not at all
	clock   atomic.Uint64
	refused memory[distrust, struct{}]

	mu    sync.Mutex               // of both together
	idle  memory[distrust, uint64] // when, in ticks, a connection ended that nothing came of
	spoke memory[distrust, uint64] // when the client last sent something
}

const (
	// suspicionLife is how long a client is suspected.
	suspicionLife = 10 * time.Minute
	// spokeLife is longer than connections stay open on which nothing is sent.
	spokeLife = 24 * time.Hour
)

// now returns the time in ticks.
func (ds *distrusts) now() uint64 { return ds.clock.Add(1) }

func (ds *distrusts) has(d distrust) bool {
	_, ok := ds.refused.get(d)
	return ok
}

func (ds *distrusts) put(d distrust) {
	if ds.life > 0 && !d.isLong() {
		ds.refused.put(d, struct{}{}, ds.life, d.client)
	}
}

// suspect notes that the client, which has known our certificate since then, ended a connection
// without using it. It reports whether that is a refusal: the client has done the same before, on a
// connection that had ended by then, and has sent nothing on any other meanwhile.
func (ds *distrusts) suspect(d distrust, since uint64) bool {
	if d.isLong() {
		return false
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if spoke, _ := ds.spoke.get(d); spoke > since {
		return false
	}
	before, again := ds.idle.get(d)
	if again && before > since { // both were open at once: one sign
		return false
	}
	ds.idle.put(d, ds.now(), suspicionLife, d.client)
	return again
}

// accept notes that the client accepts the certificate.
func (ds *distrusts) accept(d distrust) {
	if d.isLong() {
		return
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.idle.forget(d)
	ds.spoke.put(d, ds.now(), spokeLife, d.client)
}
