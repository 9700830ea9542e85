package main

import (
	"context"
	"fmt"
)

// canHAProxy: it knows one origin, or that of a redirected connection, and one certificate.
func canHAProxy(s *scenario) bool { return !s.fresh && !s.tunnelHook }

// startHAProxy starts it in mode http, or tcp where there is no HTTP.
func startHAProxy(ctx context.Context, c *cell) (*proxy, error) {
	port, err := c.site.freePort()
	if err != nil {
		return nil, err
	}
	bind, server, err := c.haproxyTLS()
	if err != nil {
		return nil, err
	}
	mode := "http"
	if c.scenario.raw() {
		mode = "tcp"
	}
	to := "server origin " + loopback(c.originPort()) + server
	if c.scenario.transparent {
		to = "server origin 0.0.0.0:0" + server
	}
	var more string
	if mode == "http" {
		more += "http-reuse always\noption http-no-delay\n"
	}
	if c.scenario.hooks {
		more += "http-request set-header X-Request 1\nhttp-response set-header X-Response 1\n"
	}
	name, err := c.write("haproxy.cfg", fmt.Sprintf(`global
maxconn 4096
defaults
mode %s
timeout connect 10s
timeout client 5m
timeout server 5m
option splice-request
option splice-response
listen bench
bind 127.0.0.1:%d%s
%s%s
`, mode, port, bind, more, to))
	if err != nil {
		return nil, err
	}
	return c.startProgram(ctx, port, "-db", "-f", name)
}

// haproxyTLS returns what TLS on both sides adds to the lines of the configuration.
func (c *cell) haproxyTLS() (bind, server string, err error) {
	if !c.scenario.tls {
		return "", "", nil
	}
	leaf, err := c.write("leaf.pem", c.authority.Origin.Cert+c.authority.Origin.Key)
	if err != nil {
		return "", "", err
	}
	root, err := c.write("root.pem", c.authority.Cert)
	bind, server = " ssl crt "+leaf, " ssl verify required sni str("+hostName+") ca-file "+root
	if c.scenario.http2 {
		bind, server = bind+" alpn h2,http/1.1", server+" alpn h2"
	}
	return bind, server, err
}
