package mitm

import (
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
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

// isCertificateAlert says whether err is one of them, sent by the peer. crypto/tls does not
// export its type, but its text is that of a tls.AlertError.
func isCertificateAlert(err error) bool { return isAlert(err, certificateAlerts...) }

// isNoProtocol says whether the peer speaks none of the protocols that it was offered (RFC
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

// distrusts remembers them for a while, if the embedder wants that.
type distrusts struct {
	life time.Duration // 0 or less: not at all

	mu    sync.Mutex
	until map[distrust]time.Time
}

const maxDistrusts = 4096

func (ds *distrusts) has(d distrust) bool {
	if ds.life <= 0 {
		return false
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return time.Now().Before(ds.until[d])
}

func (ds *distrusts) put(d distrust) {
	if ds.life <= 0 || len(d.name)+len(d.addr) > maxKeyNames {
		return
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.until == nil {
		ds.until = map[distrust]time.Time{}
	}
	for old := range ds.until { // any: no client can make all others be forgotten
		if len(ds.until) < maxDistrusts {
			break
		}
		delete(ds.until, old)
	}
	ds.until[d] = time.Now().Add(ds.life)
}
