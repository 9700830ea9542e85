package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	"example.com/mitm"
)

// mitmRole is the proxy that all this is about, with its defaults.
func mitmRole(c *control) error {
	return serveProxy(c, func(config proxyConfig) (net.Listener, func(net.Listener) error, error) {
		p := &mitm.Proxy{Hooks: mitmHooks(config), IdleTimeout: config.Idle}
		if config.Intercept {
			ca, err := mitm.LoadCA([]byte(config.CA.Cert), []byte(config.CA.Key))
			if err != nil {
				return nil, nil, err
			}
			p.CA = ca
			p.OriginTLS = &tls.Config{RootCAs: config.CA.roots()}
			p.Dial = dialOrigin
		}
		if !config.Transparent {
			return nil, p.Serve, nil
		}
		p.Mode = mitm.Transparent{}
		l, err := mitm.Transparent{}.Listen("127.0.0.1:0")
		return l, p.Serve, err
	})
}

func mitmHooks(config proxyConfig) (hooks []mitm.Hook) {
	if config.Hooks {
		hooks = append(hooks,
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				req.Header.Set("X-Request", "1")
				return nil, nil
			}),
			mitm.OnResponse(func(res *http.Response) error {
				res.Header.Set("X-Response", "1")
				return nil
			}))
	}
	if config.TunnelHook {
		hooks = append(hooks, mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) {
			return mitm.Tunnel, nil
		}))
	}
	if config.Soak {
		hooks = append(hooks, soakHooks()...)
	}
	return hooks
}

// soakHooks are the kinds that are not measured.
func soakHooks() []mitm.Hook {
	return []mitm.Hook{
		mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if strings.HasPrefix(c.Destination.Addr, throughName+":") {
				return mitm.Tunnel, nil
			}
			return mitm.Default, nil
		}),
		mitm.OnDone(func(*mitm.Flow) {}),
	}
}
