package mitm

import (
	"crypto/tls"
	"log/slog"
	"time"
)

// limits are the timeouts and sizes of a Proxy with their defaults filled in. A duration
// of less than 0 is no limit.
type limits struct {
	headTime, dialTime, tlsTime, responseTime time.Duration
	contentTime, idleTime, tunnelTime         time.Duration
	requestLine                               int
	head                                      headLimits
}

// maxHead bounds what MaxRequestLine and MaxHeaderBytes may be: each is memory that a client can
// ask for.
const maxHead = 1 << 30

func (p *Proxy) defaultLimits() limits {
	return limits{
		headTime:     orDefault(p.HeadTimeout, 30*time.Second),
		dialTime:     orDefault(p.DialTimeout, 15*time.Second),
		tlsTime:      orDefault(p.TLSTimeout, 10*time.Second),
		responseTime: orDefault(p.ResponseTimeout, 5*time.Minute),
		contentTime:  orDefault(p.ContentTimeout, 5*time.Minute),
		idleTime:     orDefault(p.IdleTimeout, 2*time.Minute),
		tunnelTime:   orDefault(p.TunnelTimeout, 15*time.Minute),
		requestLine:  orDefault(max(p.MaxRequestLine, 0), 16<<10), // memory always has a limit
		head: headLimits{
			bytes:  orDefault(max(p.MaxHeaderBytes, 0), 128<<10),
			fields: orDefault(max(p.MaxHeaderFields, 0), 256),
		},
	}
}

func orDefault[T int | time.Duration](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}

func (p *Proxy) mode() Mode {
	if p.Mode == nil {
		return Explicit{}
	}
	return p.Mode
}

func (p *Proxy) logger() *slog.Logger {
	if p.Logger == nil {
		return slog.Default()
	}
	return p.Logger
}

// opensTLS reports whether there are certificates to show to clients.
func (p *Proxy) opensTLS() bool { return p.CA != nil || p.tls.hasOwn() }

// defaultOriginTLS returns the configuration that all origin connections share, so that
// they share its session cache too.
func (p *Proxy) defaultOriginTLS() *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if p.OriginTLS != nil {
		c = p.OriginTLS.Clone()
	}
	if c.KeyLogWriter == nil {
		c.KeyLogWriter = p.KeyLogWriter
	}
	if c.ClientSessionCache == nil && !c.SessionTicketsDisabled {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return c
}
