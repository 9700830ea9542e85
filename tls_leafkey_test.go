package mitm_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"

	"example.com/mitm"
)

// rsaClients are clients that can't do with an ECDSA key of P-256.
var rsaClients = map[string]func(*tls.Config){
	"suites": func(c *tls.Config) {
		c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	},
	"curves": func(c *tls.Config) { c.MaxVersion, c.CurvePreferences = tls.VersionTLS12, []tls.CurveID{tls.X25519} },
}

// A client that takes nothing but an RSA key is shown one, and others are not.
func TestR73_RSALeaf(t *testing.T) {
	for name, restrict := range rsaClients {
		for _, protocol := range []string{"http/1.1", "h2"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newSite(t, e)
					s.p.Hooks = []mitm.Hook{noChange()}
					proxy := start(t, s.p)
					config := s.trusting(protocol)
					restrict(config)
					var first *x509.Certificate
					for range 2 {
						c := s.mustSpeak(t, proxy, config)
						leaf := c.ConnectionState().PeerCertificates[0]
						if first == nil {
							first = leaf
						}
						if key, ok := leaf.PublicKey.(*rsa.PublicKey); !ok || key.N.BitLen() != 2048 || !leaf.Equal(first) {
							t.Errorf("got a leaf with %T", leaf.PublicKey)
						}
						if leaf.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment {
							t.Errorf("key usage %b", leaf.KeyUsage)
						}
						if protocol == "h2" {
							stream := newH2Peer(t, c, true).get(":path", "/x")
							want(t, stream.outcome()+stream.body.String(), "200HTTP/2.0 /x")
						} else {
							want(t, askTLS(t, c, "/x"), "HTTP/1.1 /x")
						}
						c.Close()
					}
					other := s.mustSpeak(t, proxy, s.trusting(protocol)).ConnectionState().PeerCertificates[0]
					if _, ok := other.PublicKey.(*ecdsa.PublicKey); !ok || other.KeyUsage != x509.KeyUsageDigitalSignature {
						t.Errorf("another client has a leaf with %T, key usage %b", other.PublicKey, other.KeyUsage)
					}
				})
			})
		}
	}
}

// The key is made once, whoever asks for it first, whatever for.
func TestR73_OneKey(t *testing.T) {
	s := newSite(t, entries[0])
	s.p.OriginTLS.InsecureSkipVerify = true
	proxy := start(t, s.p)
	var clients sync.WaitGroup
	keys := make(chan string, 32)
	for i := range cap(keys) {
		clients.Go(func() {
			config := s.trusting()
			config.ServerName = fmt.Sprintf("name%d.test", i%4)
			rsaClients["suites"](config)
			c, _, err := s.speak(t, proxy, config)
			if err != nil {
				t.Error(err)
				keys <- ""
				return
			}
			keys <- string(c.ConnectionState().PeerCertificates[0].RawSubjectPublicKeyInfo)
			c.Close()
		})
	}
	clients.Wait()
	for first := <-keys; len(keys) > 0; {
		if <-keys != first {
			t.Fatal("there are several keys")
		}
	}
}

// A client that takes neither is refused, without a key being made for it.
func TestR73_NoKeyFits(t *testing.T) {
	s := newSite(t, entries[0])
	done, flows := doneHook()
	s.p.Hooks = []mitm.Hook{done}
	config := s.trusting()
	config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
	if _, _, err := s.speak(t, start(t, s.p), config); err == nil || !strings.Contains(err.Error(), "handshake failure") {
		t.Errorf("the client got %v", err)
	}
	if f := nextFlow(t, flows); f.Err == nil || !strings.Contains(f.Err.Error(), "cipher suite") {
		t.Errorf("flow ended with %v", f.Err)
	}
}

// In TLS 1.3 the suites say nothing of keys, the signature algorithms do.
func TestR73_OpenSSL(t *testing.T) {
	lookTool(t, "openssl")
	l := newSecureLab(t, nil, nil)
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		for args, kind := range map[string]string{
			"-sigalgs RSA-PSS+SHA256:RSA+SHA256": "RSA-PSS",
			"-sigalgs ECDSA+SHA256":              "ECDSA",
			"-sigalgs RSA-PSS+SHA256":            "RSA-PSS",
			"-sigalgs RSA-PSS+SHA256:ECDSA+SHA256 -cipher ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256": "ECDSA",
		} {
			got := output(t, l.sClient(t, helloRequest, append([]string{version, "-CAfile", l.ca, "-ign_eof"}, strings.Fields(args)...)...))
			if countLines(got, "Peer signature type: "+kind+"\n") != 1 || !strings.Contains(got, "HTTP/1.1 /hello edited\n") {
				t.Errorf("%s %s: want %s: %s", version, args, kind, got)
			}
		}
	}
}
