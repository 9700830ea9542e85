package main

import (
	"context"
	"net"
	"net/http"

	"github.com/google/martian/v3"
	"github.com/google/martian/v3/h2"
	"github.com/google/martian/v3/log"
	"github.com/google/martian/v3/mitm"
)

// martianRole is github.com/google/martian/v3.
func martianRole(c *control) error {
	log.SetLevel(log.Silent)
	return serveProxy(c, func(config proxyConfig) (net.Listener, func(net.Listener) error, error) {
		p := martian.NewProxy()
		p.SetRoundTripper(peerTransport(config))
		p.SetDial(func(network, addr string) (net.Conn, error) {
			return dialOrigin(context.Background(), network, addr)
		})
		if config.Intercept && !config.TunnelHook {
			m, err := martianInterception(config)
			if err != nil {
				return nil, nil, err
			}
			p.SetMITM(m)
		}
		if config.Hooks {
			p.SetRequestModifier(martian.RequestModifierFunc(func(req *http.Request) error {
				req.Header.Set("X-Request", "1")
				return nil
			}))
			p.SetResponseModifier(martian.ResponseModifierFunc(func(res *http.Response) error {
				res.Header.Set("X-Response", "1")
				return nil
			}))
		}
		return nil, p.Serve, nil
	})
}

func martianInterception(config proxyConfig) (*mitm.Config, error) {
	ca, err := config.CA.tls()
	if err != nil {
		return nil, err
	}
	m, err := mitm.NewConfig(ca.Leaf, ca.PrivateKey)
	if err == nil && config.HTTP2 {
		m.SetH2Config(&h2.Config{
			AllowedHostsFilter: func(string) bool { return true },
			RootCAs:            config.CA.roots(),
		})
	}
	return m, err
}
