package mitm

import (
	"context"
	"crypto/tls"
	"io"
)

// clientTLS is what the TLS connections of all clients share. They use a few configurations
// again and again, so that a ticket from one connection resumes a session on another.
type clientTLS struct {
	base   *tls.Config // asks an opening which of the others to go on with
	plain  *tls.Config // no protocol is negotiated
	http1  *tls.Config
	http2  *tls.Config
	config *tls.Config // the embedder's; nil: none
}

// helloHandler is asked by crypto/tls, by way of the context of a handshake.
type helloHandler interface {
	// configFor returns the configuration to go on with.
	configFor(hello *tls.ClientHelloInfo) (*tls.Config, error)
	// certificate returns the one to show.
	certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
}

type helloHandlerKey struct{}

func withHelloHandler(ctx context.Context, h helloHandler) context.Context {
	return context.WithValue(ctx, helloHandlerKey{}, h)
}

func handlerOf(hello *tls.ClientHelloInfo) helloHandler {
	return hello.Context().Value(helloHandlerKey{}).(helloHandler)
}

func newClientTLS(config *tls.Config, keys io.Writer) *clientTLS {
	c := &clientTLS{config: config, base: &tls.Config{}}
	if config != nil {
		c.base = config.Clone()
	}
	if c.base.MinVersion == 0 {
		c.base.MinVersion = tls.VersionTLS12
	}
	if c.base.KeyLogWriter == nil {
		c.base.KeyLogWriter = keys
	}
	c.base.Certificates = nil
	c.base.GetCertificate = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return handlerOf(hello).certificate(hello)
	}
	c.base.GetConfigForClient = nil
	c.plain, c.http1, c.http2 = c.with(), c.with(protoHTTP1), c.with(protoHTTP2)
	c.base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return handlerOf(hello).configFor(hello)
	}
	return c
}

func (c *clientTLS) with(protocols ...string) *tls.Config {
	config := c.base.Clone()
	config.NextProtos = protocols
	return config
}

// speaking returns the configuration that gives a client the protocol.
func (c *clientTLS) speaking(protocol string) *tls.Config {
	switch protocol {
	case "":
		return c.plain
	case protoHTTP1:
		return c.http1
	case protoHTTP2:
		return c.http2
	}
	config := c.with(protocol) // one that is relayed
	config.GetConfigForClient = nil
	return config
}

// hasOwn reports whether the embedder has certificates.
func (c *clientTLS) hasOwn() bool {
	return c.config != nil && (c.config.GetCertificate != nil || len(c.config.Certificates) > 0)
}

// own returns the certificate that the embedder has for a client; nil if there is none.
func (c *clientTLS) own(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.config == nil {
		return nil, nil
	}
	if c.config.GetCertificate != nil {
		if cert, err := c.config.GetCertificate(hello); cert != nil || err != nil {
			return cert, err
		}
	}
	for i := range c.config.Certificates {
		if cert := &c.config.Certificates[i]; hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return nil, nil
}
