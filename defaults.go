package mitm

import (
	"crypto/tls"
	"log/slog"
	"time"
)

// What the zero values of Proxy's fields mean. A duration that is returned negative
// means no limit.

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

// originTLS returns the configuration that all origin connections share, so that they
// share its session cache too.
func (p *Proxy) originTLS() *tls.Config {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tls == nil {
		p.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		if p.OriginTLS != nil {
			p.tls = p.OriginTLS.Clone()
		}
		if p.tls.ClientSessionCache == nil {
			p.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		}
	}
	return p.tls
}

func (p *Proxy) headTimeout() time.Duration     { return orDefault(p.HeadTimeout, 30*time.Second) }
func (p *Proxy) dialTimeout() time.Duration     { return orDefault(p.DialTimeout, 15*time.Second) }
func (p *Proxy) tlsTimeout() time.Duration      { return orDefault(p.TLSTimeout, 10*time.Second) }
func (p *Proxy) responseTimeout() time.Duration { return orDefault(p.ResponseTimeout, 5*time.Minute) }
func (p *Proxy) contentTimeout() time.Duration  { return orDefault(p.ContentTimeout, 5*time.Minute) }
func (p *Proxy) idleTimeout() time.Duration     { return orDefault(p.IdleTimeout, 2*time.Minute) }
func (p *Proxy) tunnelTimeout() time.Duration   { return orDefault(p.TunnelTimeout, 15*time.Minute) }

func (p *Proxy) maxRequestLine() int { return orDefault(p.MaxRequestLine, 16<<10) }

func (p *Proxy) headLimits() headLimits {
	return headLimits{bytes: orDefault(p.MaxHeaderBytes, 128<<10), fields: orDefault(p.MaxHeaderFields, 256)}
}

func orDefault[T int | time.Duration](v, d T) T {
	if v == 0 {
		return d
	}
	return v
}
