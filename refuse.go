package mitm

import (
	"context"
	"fmt"
	"net/http"
)

// RefuseUnread returns a hook for proxies that enforce a policy by hooks. It refuses what hooks
// could not read, which is relayed otherwise, and clients that call one server by several names:
//
//   - every protocol but HTTP and TLS (see [Other]), servers that speak first included;
//   - TLS that the proxy can't terminate, because there is no certificate for it or because
//     crypto/tls refuses the ClientHello;
//   - fronting: the names of the CONNECT or SOCKS request, of the ClientHello and of the Host field
//     or :authority differ. Addresses are not compared.
//
// Upgrades are requests that an [HTTPHook] sees; what follows their 101 is relayed. [Flow.Err] of
// what was refused is [ErrRejected], and [ErrUnread] too if it could not be read; HTTP clients are
// sent 403 (Forbidden).
//
// The first ConnHook that decides wins: what a hook in front of this one answers with [Tunnel] is
// relayed, and a hook that answers [Intercept] belongs behind it. The hook is an [HTTPHook] too:
// put it first, so that it sees requests as they came.
func RefuseUnread() ConnHook { return refuseUnread{} }

type refuseUnread struct{}

var _ HTTPHook = refuseUnread{}

// refusesUnread makes a CONNECT looked into that would be tunnelled at once.
func (refuseUnread) refusesUnread() {}

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
