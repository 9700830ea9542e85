package mitm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Reverse is the mode for clients that take the proxy for the origin server: all
// requests go to one target.
type Reverse struct {
	// Target has the scheme http or https, a host and perhaps a port, nothing else.
	Target *url.URL
	// KeepHost leaves the Host field as the client sent it. Otherwise it becomes
	// Target.Host.
	KeepHost bool
}

// Destination implements Mode.
func (r Reverse) Destination(context.Context, *Conn) (Destination, error) {
	d := Destination{
		Addr:     net.JoinHostPort(r.Target.Hostname(), r.port()),
		TLS:      r.Target.Scheme == "https",
		Protocol: HTTP1,
	}
	if !r.KeepHost {
		d.Host = r.Target.Host
	}
	return d, nil
}

func (r Reverse) port() string {
	switch {
	case r.Target.Port() != "":
		return r.Target.Port()
	case r.Target.Scheme == "https":
		return "443"
	}
	return "80"
}

// check implements modeChecker.
func (r Reverse) check() error {
	if r.Target == nil {
		return errors.New("mitm: Reverse has no Target")
	}
	u := *r.Target
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" ||
		u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return fmt.Errorf("mitm: Reverse target %q is not http://host[:port] or https://host[:port]", r.Target.Redacted())
	}
	return nil
}

// modeListener is a mode that needs a listener of its own kind.
type modeListener interface {
	Listen(addr string) (net.Listener, error)
}
