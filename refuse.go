package mitm

import (
	"context"
	"fmt"
	"net/http"
)

// RefuseUnread returns a hook for everybody who enforces a policy by hooks: it refuses what they could
// not read, which without it is relayed, and what calls one server by several names. That is
//
//   - every protocol but HTTP and TLS (see [Other]), a server that speaks first included,
//   - TLS that the proxy can't terminate: there is no certificate for it, or its ClientHello is one
//     that crypto/tls refuses, and
//   - fronting: the names of CONNECT or SOCKS, of the ClientHello and of the Host field or :authority
//     differ; addresses, which have none, are not compared.
//
// Upgrades are requests that an [HTTPHook] sees; what follows their 101 is relayed. The flow ends with
// [ErrRejected], and [ErrUnread] where there was nothing to read; HTTP clients get 403 (Forbidden).
//
// Of several ConnHooks the first decides: what one in front of it answers with [Tunnel] is relayed, and
// one that answers [Intercept] belongs behind it. It is an [HTTPHook] too, the first of which sees
// requests as they came.
func RefuseUnread() ConnHook { return refuseUnread{} }

type refuseUnread struct{}

var _ HTTPHook = refuseUnread{}

// HookConn implements ConnHook.
func (refuseUnread) HookConn(_ context.Context, c *Conn) (Action, error) {
	switch {
	case c.Protocol == Other, c.Protocol == TLS && c.opaque:
		return Reject, ErrUnread
	case c.Protocol == TLS:
		return Default, sameName(c.Destination.named, c.ServerName)
	}
	return Default, nil
}

// HookHTTP implements HTTPHook.
func (refuseUnread) HookHTTP(next http.RoundTripper) http.RoundTripper { return sameNames{next} }

// sameNames forwards requests whose host is the one that their connection was made for.
type sameNames struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (s sameNames) RoundTrip(req *http.Request) (*http.Response, error) {
	if flow := FlowFromContext(req.Context()); flow != nil {
		host := hostName(req.Host)
		for _, name := range [...]string{flow.Conn.Destination.named, flow.Conn.ServerName} {
			if err := sameName(name, host); err != nil {
				return nil, err
			}
		}
	}
	return s.next.RoundTrip(req)
}

// sameName returns an error if both names are known and differ.
func sameName(a, b string) error {
	if a == "" || b == "" || a == b {
		return nil
	}
	return fmt.Errorf("%w: fronting: connected to %q, asked for %q", ErrRejected, a, b)
}
