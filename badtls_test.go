package mitm_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// badOrigin is one that may have something wrong.
type badOrigin struct {
	host string
	add  func(f *farm, host string)
	says []string             // what the client is told; nil: the request succeeds
	is   func(err error) bool // what Flow.Err has to be, too; nil: nothing more
}

func spoiled(change func(c *x509.Certificate)) func(f *farm, host string) {
	return func(f *farm, host string) {
		f.serve(host, &tls.Config{Certificates: []tls.Certificate{f.root.leaf(host, newKey(f.t), change)}})
	}
}

func restricted(restrict func(c *tls.Config)) func(f *farm, host string) {
	return func(f *farm, host string) {
		config := &tls.Config{Certificates: []tls.Certificate{f.root.leaf(host, newKey(f.t), nil)}}
		restrict(config)
		f.serve(host, config)
	}
}

func raw(then func(c *peer)) func(f *farm, host string) {
	return func(f *farm, host string) { f.raw(host, then) }
}

func isError[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// invalid is a certificate that was verified and found wrong in one way.
func invalid(reason x509.InvalidReason) func(err error) bool {
	return func(err error) bool {
		e, ok := errors.AsType[x509.CertificateInvalidError](err)
		return ok && e.Reason == reason && isError[*tls.CertificateVerificationError](err)
	}
}

func unknownAuthority(err error) bool {
	return isError[*tls.CertificateVerificationError](err) && isError[x509.UnknownAuthorityError](err)
}

var badOrigins = []badOrigin{
	{"fine.test", spoiled(nil), nil, nil},
	{"expired.test", spoiled(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		[]string{"expired", "is after 2"}, invalid(x509.Expired)},
	{"early.test", spoiled(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour / 2) }),
		[]string{"not yet valid", "is before 2"}, invalid(x509.Expired)},
	{"self.test", selfSigned, []string{"unknown authority"}, unknownAuthority},
	{"stranger.test", func(f *farm, host string) {
		f.serve(host, &tls.Config{Certificates: []tls.Certificate{f.other.leaf(host, newKey(f.t), nil)}})
	}, []string{"unknown authority"}, unknownAuthority},
	{"wrong.test", spoiled(func(c *x509.Certificate) { c.DNSNames = []string{"right.test"} }),
		[]string{"valid for right.test, not wrong.test"}, isError[x509.HostnameError]},
	{"nameless.test", spoiled(func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "nameless.test" }),
		[]string{"Common Name"}, isError[x509.HostnameError]},
	{"noca.test", issuedByLeaf, []string{"unknown authority", "cannot sign this kind of certificate"}, unknownAuthority},
	{"client.test", spoiled(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }),
		[]string{"incompatible key usage"}, invalid(x509.IncompatibleUsage)},
	{"weak.test", weakKey, []string{"RSA", "1024"}, nil},
	{"tls10.test", restricted(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }),
		[]string{"protocol version not supported"}, nil},
	{"tls11.test", restricted(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }),
		[]string{"protocol version not supported"}, nil},
	{"oldest.test", raw(func(c *peer) { c.send(tls10Hello) }), []string{"unsupported protocol version 301"}, nil},
	{"cipher.test", restricted(func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	}), []string{"handshake failure"}, nil},
	{"tls12.test", restricted(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), nil, nil},
	{"reset.test", raw(func(c *peer) {
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	}), []string{"reset by peer"}, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
	{"close.test", raw(func(c *peer) { c.Close() }), []string{"EOF"}, func(err error) bool { return errors.Is(err, io.EOF) }},
	{"plain.test", raw(func(c *peer) { c.send("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"); c.closeWrite() }),
		[]string{"does not look like a TLS handshake"}, isError[tls.RecordHeaderError]},
	{"garbage.test", raw(func(c *peer) { c.send("\x00\x01\x02\x03\x04\x05\x06\x07"); c.closeWrite() }),
		[]string{"does not look like a TLS handshake"}, isError[tls.RecordHeaderError]},
	{"alert.test", raw(func(c *peer) { c.send("\x15\x03\x03\x00\x02\x02\x70"); c.closeWrite() }), []string{"unrecognized name"}, nil},
}

// tls10Hello is a ServerHello of TLS 1.0, which nobody asked for (RFC 2246, section 7.4.1.3).
var tls10Hello = "\x16\x03\x01\x00\x2a" + "\x02\x00\x00\x26" + "\x03\x01" + strings.Repeat("r", 32) + "\x00" + "\xc0\x09" + "\x00"

func selfSigned(f *farm, host string) {
	self := newIssuer(f.t, host)
	f.serve(host, &tls.Config{Certificates: []tls.Certificate{self.leaf(host, self.key, nil)}})
}

// issuedByLeaf is a certificate whose issuer has a good certificate, but for a server.
func issuedByLeaf(f *farm, host string) {
	end := f.root.leaf("end.test", newKey(f.t), func(c *x509.Certificate) {
		c.Subject.CommonName, c.KeyUsage = "end entity", x509.KeyUsageCertSign
	})
	by := &issuer{t: f.t, cert: end.Leaf, key: end.PrivateKey.(crypto.Signer)}
	cert := by.leaf(host, newKey(f.t), nil)
	cert.Certificate = append(cert.Certificate, end.Leaf.Raw)
	f.serve(host, &tls.Config{Certificates: []tls.Certificate{cert}})
}

func weakKey(f *farm, host string) {
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		f.t.Fatal(err)
	}
	f.serve(host, &tls.Config{Certificates: []tls.Certificate{f.root.leaf(host, key, nil)}})
}

// An origin with anything wrong gets no byte of a request, and the client is told what it is.
func TestR44_BadOrigins(t *testing.T) {
	f, ca := newFarm(t), newCA(t)
	for _, o := range badOrigins {
		o.add(f, o.host)
	}
	done, flows := doneHook()
	proxy := start(t, &mitm.Proxy{CA: ca, Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Hooks: []mitm.Hook{done}})
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		client := c.through(proxy, ca)
		for _, o := range badOrigins {
			t.Run(o.host, func(t *testing.T) {
				url := "https://" + o.host + "/secret"
				res, err := client.Get(url)
				body := content(t, res, err)
				flow := flowOf(t, flows, url)
				if o.says != nil {
					o.checkRefused(t, res, body, flow)
					f.untouched(t, o.host)
					return
				}
				want(t, res.Proto+", "+body, c.protocol+", "+c.protocol+" /secret")
				if flow.Err != nil {
					t.Error(flow.Err)
				}
			})
		}
	})
}

// checkRefused looks at how a request for /secret went.
func (o *badOrigin) checkRefused(t *testing.T, res *http.Response, body string, flow *mitm.Flow) {
	t.Helper()
	if res.StatusCode != http.StatusBadGateway || flow.Status != http.StatusBadGateway {
		t.Errorf("got %s, flow has %d", res.Status, flow.Status)
	}
	for _, part := range append(o.says, o.host) {
		if !strings.Contains(body, part) {
			t.Errorf("the client is told %q, which lacks %q", body, part)
		}
	}
	wantTLSError(t, flow, o.host+":443")
	if o.is != nil && !o.is(flow.Err) {
		t.Errorf("error of the wrong kind: %v", flow.Err)
	}
}

func wantTLSError(t *testing.T, flow *mitm.Flow, addr string) {
	t.Helper()
	if e, ok := errors.AsType[*mitm.OpError](flow.Err); !ok || e.Op != "tls" || e.Addr != addr {
		t.Errorf("error %v", flow.Err)
	}
}

// An origin that does not answer the handshake is given up in time, and the client, whose
// own handshake may wait for it, is told in TLS.
func TestSilentOrigin(t *testing.T) {
	f, ca := newFarm(t), newCA(t)
	f.raw("silent.test", func(*peer) {})
	done, flows := doneHook()
	proxy := start(t, &mitm.Proxy{CA: ca, Dial: f.dial, TLSTimeout: 300 * time.Millisecond, Hooks: []mitm.Hook{done}})
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		const url = "https://silent.test/secret"
		res, err := c.through(proxy, ca).Get(url)
		body := content(t, res, err)
		if res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "silent.test") {
			t.Errorf("got %s %q", res.Status, body)
		}
		flow := flowOf(t, flows, url)
		wantTLSError(t, flow, "silent.test:443")
		if !errors.Is(flow.Err, context.DeadlineExceeded) && !errors.Is(flow.Err, os.ErrDeadlineExceeded) {
			t.Errorf("error %v", flow.Err)
		}
		f.untouched(t, "silent.test")
	})
}

// What the origin chooses, of what the client offered, is what the client gets.
func TestR47_OriginChooses(t *testing.T) {
	f, ca := newFarm(t), newCA(t)
	config := func(host string, protocols ...string) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{f.root.leaf(host, newKey(t), nil)}, NextProtos: protocols}
	}
	f.serve("h1.test", config("h1.test", "http/1.1"))
	f.serve("none.test", &tls.Config{GetConfigForClient: always(config("none.test"))})
	f.serve("h2.test", onlyHTTP2(config("h2.test", "h2")))
	proxy := start(t, &mitm.Proxy{CA: ca, Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Hooks: []mitm.Hook{noChange()}})
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		client := c.through(proxy, ca)
		get := func(client *http.Client, host string) string {
			res, err := client.Get("https://" + host + "/")
			return res.Proto + ", " + content(t, res, err)
		}
		want(t, get(client, "h1.test"), "HTTP/1.1, HTTP/1.1 /")
		want(t, get(client, "none.test"), "HTTP/1.1, HTTP/1.1 /")
		if got := get(client, "h2.test"); c.protocol == "HTTP/2.0" {
			want(t, got, "HTTP/2.0, HTTP/2.0 /")
		} else if !strings.Contains(got, "no application protocol") {
			t.Errorf("HTTP/1.1 at an origin for HTTP/2 only: %s", got)
		}
		// A client that can't be given what the origin has chosen is translated for.
		if client = c.through(proxy, ca); c.protocol == "HTTP/2.0" {
			client.Transport.(*http.Transport).Protocols.SetHTTP1(false)
			want(t, get(client, "h2.test"), "HTTP/2.0, HTTP/2.0 /")
			want(t, get(client, "none.test"), "HTTP/2.0, HTTP/1.1 /")
		}
	})
}

func always(config *tls.Config) func(*tls.ClientHelloInfo) (*tls.Config, error) {
	return func(*tls.ClientHelloInfo) (*tls.Config, error) { return config, nil }
}

// onlyHTTP2 refuses clients that do not offer it with the alert no_application_protocol
// (RFC 7301, section 3.2), which crypto/tls does not do to those that offer HTTP/1.1.
func onlyHTTP2(config *tls.Config) *tls.Config {
	with := config.Clone()
	with.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, "h2") {
			return config, nil
		}
		hello.Conn.Write([]byte("\x15\x03\x03\x00\x02\x02\x78"))
		return nil, errors.New("no HTTP/2")
	}
	return with
}
