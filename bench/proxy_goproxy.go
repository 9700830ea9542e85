package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/elazarl/goproxy"
)

// peerTransport is what the Go peers send requests with. It keeps as many idle connections as
// there are clients, which is better for them than their defaults.
func peerTransport(config proxyConfig) *http.Transport {
	return &http.Transport{
		DialContext:         dialOrigin,
		TLSClientConfig:     &tls.Config{RootCAs: config.CA.roots()},
		MaxIdleConnsPerHost: 4096,
		DisableCompression:  true,
		ForceAttemptHTTP2:   config.HTTP2,
	}
}

// goproxyRole is github.com/elazarl/goproxy.
func goproxyRole(c *control) error {
	return serveProxy(c, func(config proxyConfig) (net.Listener, func(net.Listener) error, error) {
		p := goproxy.NewProxyHttpServer()
		p.Tr = peerTransport(config)
		p.AllowHTTP2 = config.HTTP2
		p.CertStore = &leafStore{leaves: map[string]*tls.Certificate{}}
		if config.Intercept {
			ca, err := config.CA.tls()
			if err != nil {
				return nil, nil, err
			}
			open := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(&ca)}
			if config.TunnelHook {
				open = goproxy.OkConnect
			}
			p.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
				return open, host
			})
		}
		if config.Hooks {
			hookGoproxy(p)
		}
		return nil, (&http.Server{Handler: p}).Serve, nil
	})
}

func hookGoproxy(p *goproxy.ProxyHttpServer) {
	p.OnRequest().DoFunc(func(req *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		req.Header.Set("X-Request", "1")
		return req, nil
	})
	p.OnResponse().DoFunc(func(res *http.Response, _ *goproxy.ProxyCtx) *http.Response {
		res.Header.Set("X-Response", "1")
		return res
	})
}

// leafStore keeps certificates, as goproxy recommends.
type leafStore struct {
	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

// Fetch implements goproxy.CertStorage.
func (s *leafStore) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	s.mu.Lock()
	leaf := s.leaves[host]
	s.mu.Unlock()
	if leaf != nil {
		return leaf, nil
	}
	leaf, err := make()
	if err == nil {
		s.mu.Lock()
		s.leaves[host] = leaf
		s.mu.Unlock()
	}
	return leaf, err
}
