package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// newMixedFarm has origins of which some need a configuration of their own, which is returned.
func newMixedFarm(t *testing.T) (f *farm, own map[string]*tls.Config) {
	f = newFarm(t)
	for _, host := range []string{"fine.test", "expired.test"} {
		f.serve(host, &tls.Config{Certificates: []tls.Certificate{f.root.leaf(host, newKey(t), func(c *x509.Certificate) {
			if host == "expired.test" {
				c.NotAfter = time.Now().Add(-time.Minute)
			}
		})}})
	}
	selfSigned(f, "self.test")
	selfSigned(f, "otherself.test")
	f.serve("stranger.test", &tls.Config{Certificates: []tls.Certificate{f.other.leaf("stranger.test", newKey(t), nil)}})
	for host, auth := range map[string]tls.ClientAuthType{
		"mutual.test":   tls.RequireAndVerifyClientCert,
		"optional.test": tls.VerifyClientCertIfGiven,
	} {
		f.serve(host, &tls.Config{
			Certificates: []tls.Certificate{f.root.leaf(host, newKey(t), nil)},
			ClientAuth:   auth, ClientCAs: f.other.pool(),
		})
	}
	visitor := f.other.leaf("visitor", newKey(t), func(c *x509.Certificate) {
		c.Subject.CommonName, c.ExtKeyUsage = "visitor", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	identified := &tls.Config{RootCAs: f.root.pool(), Certificates: []tls.Certificate{visitor}}
	return f, map[string]*tls.Config{
		"self.test:443":     {InsecureSkipVerify: true},
		"stranger.test:443": {RootCAs: f.other.pool()},
		"mutual.test:443":   identified,
		"optional.test:443": identified,
	}
}

// getOnce is a GET on connections of its own, which are closed before it returns. It returns
// what came, with the status if that is not 200.
func getOnce(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	defer client.CloseIdleConnections()
	res, err := client.Get(url)
	body := content(t, res, err)
	if res.StatusCode != 200 {
		body = res.Status + ": " + body
	}
	return body
}

// A configuration for one destination works there, whenever the hook sets it, and nowhere else.
func TestOriginTLSOfOneHost(t *testing.T) {
	f, own := newMixedFarm(t)
	for name, protocol := range map[string]mitm.Protocol{"first question": mitm.Unknown, "second question": mitm.TLS} {
		t.Run(name, func(t *testing.T) {
			ca := newCA(t)
			hook := mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				if c.Protocol == protocol {
					c.Destination.OriginTLS = own[c.Destination.Addr]
				}
				return mitm.Default, nil
			})
			proxy := start(t, &mitm.Proxy{CA: ca, Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Hooks: []mitm.Hook{hook}})
			eachSecureClient(t, func(t *testing.T, c secureClient) {
				for range 2 { // new connections, then reused ones and resumed sessions
					for host, says := range map[string]string{
						"fine.test":      c.protocol + " /",
						"self.test":      c.protocol + " /",
						"stranger.test":  c.protocol + " /",
						"mutual.test":    c.protocol + " / from visitor",
						"optional.test":  c.protocol + " / from visitor",
						"expired.test":   "expired",
						"otherself.test": "unknown authority",
					} {
						if got := getOnce(t, c.through(proxy, ca), "https://"+host+"/"); !strings.Contains(got, says) {
							t.Errorf("%s: got %q, want %q", host, got, says)
						}
					}
				}
			})
		})
	}
}

// A connection that was opened with one configuration is not used with another.
func TestOriginTLSInPool(t *testing.T) {
	f, own := newMixedFarm(t)
	ca := newCA(t)
	var on atomic.Bool
	hook := mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if on.Load() {
			c.Destination.OriginTLS = own[c.Destination.Addr]
		}
		return mitm.Default, nil
	})
	proxy := start(t, &mitm.Proxy{CA: ca, Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Hooks: []mitm.Hook{hook}})
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		good := c.protocol + " /"
		for range 2 {
			for host, says := range map[string][2]string{ // without and with a configuration of its own
				"self.test":     {"502 Bad Gateway: ", good},
				"stranger.test": {"502 Bad Gateway: ", good},
				"mutual.test":   {"502 Bad Gateway: ", good + " from visitor"},
				"optional.test": {good, good + " from visitor"},
			} {
				for i, says := range says {
					on.Store(i == 1)
					got := getOnce(t, c.through(proxy, ca), "https://"+host+"/")
					if got != says && (says != "502 Bad Gateway: " || !strings.HasPrefix(got, says)) {
						t.Errorf("%s: own configuration %v: got %q, want %q", host, on.Load(), got, says)
					}
				}
			}
		}
	})
}

// A request that names an https URL itself is under the same configuration.
func TestOriginTLSOfAbsoluteForm(t *testing.T) {
	f, own := newMixedFarm(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Dial, p.OriginTLS = f.dial, &tls.Config{RootCAs: f.root.pool()}
		p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			c.Destination.OriginTLS = own[c.Destination.Addr]
			return mitm.Default, nil
		}))
		c := dial(t, start(t, p))
		for host, says := range map[string]string{
			"self.test": "HTTP/1.1 /", "mutual.test": "HTTP/1.1 / from visitor", "otherself.test": "unknown authority",
		} {
			c.send("GET https://" + host + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, body := c.response("GET"); !strings.Contains(body, says) {
				t.Errorf("%s: got %q, want %q", host, body, says)
			}
		}
	})
}

// A hook that answers by itself does not notice that there is no origin, or a bad one; without
// it the client is told what is missing.
func TestHookAnswersWithoutOrigin(t *testing.T) {
	f, ca := newFarm(t), newCA(t)
	selfSigned(f, "self.test")
	f.raw("silent.test", func(*peer) {})
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		switch addr {
		case "refused.test:443":
			return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
		case "hole.test:443":
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return f.dial(ctx, network, addr)
	}
	answer := mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		if req.URL.Path != "/answered" {
			return nil, nil
		}
		return text(200, "made up for "+req.URL.String()), nil
	})
	done, flows := doneHook()
	proxy := start(t, &mitm.Proxy{
		CA: ca, Dial: dialer, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Hooks: []mitm.Hook{done, answer},
		DialTimeout: 300 * time.Millisecond, TLSTimeout: 300 * time.Millisecond,
	})
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		for host, says := range map[string]string{
			"nowhere.invalid": "502 Bad Gateway: no such host",
			"refused.test":    "502 Bad Gateway: refused",
			"self.test":       "502 Bad Gateway: unknown authority",
			"silent.test":     "504 Gateway Timeout: silent.test",
			"hole.test":       "504 Gateway Timeout: hole.test",
		} {
			client, url := c.through(proxy, ca), "https://"+host+"/"
			want(t, getOnce(t, client, url+"answered"), "made up for "+url+"answered")
			if flow := flowOf(t, flows, url+"answered"); flow.Err != nil || flow.Status != 200 {
				t.Errorf("%s: flow ended with %d, %v", url, flow.Status, flow.Err)
			}
			got := getOnce(t, client, url+"asked")
			if status, why, _ := strings.Cut(says, ": "); !strings.HasPrefix(got, status) || !strings.Contains(got, why) {
				t.Errorf("%s: got %q, want %q", url, got, says)
			}
			if flow := flowOf(t, flows, url+"asked"); !isError[*mitm.OpError](flow.Err) || errors.Is(flow.Err, mitm.ErrClientGone) {
				t.Errorf("%s: flow ended with %v", url, flow.Err)
			}
		}
	})
}
