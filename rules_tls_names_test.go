package mitm_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.com/mitm"
)

// originHello is what an origin was asked for, and what it chose.
type originHello struct {
	name, offered, chosen string
}

// newAskedSite has a server with these protocols that sends back what it gets, and tells of each
// ClientHello. The dialled addresses are told, too.
func newAskedSite(t *testing.T, e entry, change func(c *x509.Certificate), protocols ...string) (s *openedSite, hellos chan originHello, dialled chan string) {
	t.Helper()
	hellos = make(chan originHello, 64)
	s = newRawSite(t, e, "")
	config := &tls.Config{Certificates: []tls.Certificate{s.root.leaf("site.test", newKey(t), change)}, NextProtos: protocols}
	addr := origin(t, func(c *peer) {
		var h originHello
		asking := config.Clone()
		asking.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			h.name, h.offered = hello.ServerName, strings.Join(hello.SupportedProtos, " ")
			return nil, nil
		}
		tc := tls.Server(c.Conn, asking)
		err := tc.Handshake()
		h.chosen = tc.ConnectionState().NegotiatedProtocol
		hellos <- h
		if err == nil {
			io.Copy(tc, tc)
			tc.Close()
		}
	})
	s.p.Dial, dialled = dialling(addr)
	return s, hellos, dialled
}

// A client is given what the origin chose, of what both know; never what it did not offer.
func TestR47_Mirrored(t *testing.T) {
	for _, test := range []struct{ client, origin, offered, chosen string }{
		{"h2 http/1.1", "h2 http/1.1", "h2 http/1.1", "h2"},
		{"http/1.1 h2", "h2 http/1.1", "http/1.1 h2", "h2"},
		{"h2 http/1.1", "http/1.1 h2", "h2 http/1.1", "http/1.1"},
		{"h2 http/1.1", "http/1.1", "h2 http/1.1", "http/1.1"},
		{"h2 http/1.1", "h2", "h2 http/1.1", "h2"},
		{"h3 h2 spdy/1 http/1.1 h2", "spdy/1 http/1.1", "h2 http/1.1", "http/1.1"},
		{"http/1.1", "h2 http/1.1", "http/1.1", "http/1.1"},
		{"http/1.1", "", "http/1.1", "http/1.1"},
		{"h2 http/1.1", "", "h2 http/1.1", "http/1.1"},
		{"", "h2 http/1.1", "", ""},
		{"", "", "", ""},
		{"mqtt", "mqtt", "mqtt", "mqtt"},
		{"amqp mqtt", "mqtt amqp", "amqp mqtt", "mqtt"},
		{"mqtt", "", "mqtt", ""},
	} {
		t.Run(test.client+", "+test.origin, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s, hellos, _ := newAskedSite(t, e, nil, strings.Fields(test.origin)...)
				c := s.mustSpeak(t, start(t, s.p), s.trusting(strings.Fields(test.client)...))
				want(t, c.ConnectionState().NegotiatedProtocol, test.chosen)
				h := receive(t, hellos)
				want(t, h.offered, test.offered)
				if h.chosen != test.chosen && h.chosen != "" {
					t.Errorf("the origin chose %q", h.chosen)
				}
			})
		})
	}
}

// A protocol that the proxy does not read is relayed inside TLS, under its name.
func TestR47_OtherProtocol(t *testing.T) {
	for _, protocol := range []string{"mqtt", ""} {
		eachEntry(t, func(t *testing.T, e entry) {
			s, hellos, _ := newAskedSite(t, e, nil, strings.Fields(protocol)...)
			s.p.Hooks = []mitm.Hook{unreadHook(t)}
			proxy := start(t, s.p)
			for range 2 {
				c := s.mustSpeak(t, proxy, s.trusting(strings.Fields(protocol)...))
				const said = "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"
				io.WriteString(c, said)
				want(t, newPeer(t, c).read(len(said)), said)
				if h := receive(t, hellos); h.chosen != protocol {
					t.Errorf("the origin chose %q", h.chosen)
				}
			}
		})
	}
}

// Where client and origin have no protocol in common, nothing is relayed.
func TestR47_NothingInCommon(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s, hellos, _ := newAskedSite(t, e, nil, "amqp")
		c, _, err := s.speak(t, start(t, s.p), s.trusting("mqtt"))
		if err == nil {
			io.WriteString(c, "\x10mqtt")
			_, err = c.Read(make([]byte, 1))
		}
		if _, told := errors.AsType[tls.AlertError](err); !told && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client got %v", err)
		}
		want(t, receive(t, hellos).offered, "mqtt")
	})
}

// The origin is asked for the name that the client asked for, but where the connection goes
// does not depend on it. There is no name where the client gives none and wants an address.
func TestR46_Names(t *testing.T) {
	for name, test := range map[string]struct{ addr, asked, upstream, leaf string }{
		"same name":      {"site.test:443", "site.test", "site.test", "site.test"},
		"other name":     {"other.test:443", "site.test", "site.test", "site.test"},
		"other port":     {"site.test:8443", "site.test", "site.test", "site.test"},
		"name of no use": {"192.0.2.1:443", "site.test", "site.test", "site.test"},
		"none, a name":   {"site.test:443", "", "site.test", "site.test"},
		"none, IPv4":     {"192.0.2.1:443", "", "", "192.0.2.1"},
		"none, IPv6":     {"[2001:db8::1]:443", "", "", "2001:db8::1"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, e := range entriesTo(test.addr) {
				s, hellos, dialled := newAskedSite(t, e, func(c *x509.Certificate) {
					c.IPAddresses = []net.IP{net.ParseIP("192.0.2.1"), net.ParseIP("2001:db8::1")}
				})
				config := s.trusting()
				config.ServerName, config.InsecureSkipVerify = test.asked, true
				c := s.mustSpeak(t, start(t, s.p), config)
				io.WriteString(c, "\x00x") // the origin's certificate is good
				want(t, newPeer(t, c).read(2), "\x00x")
				want(t, receive(t, hellos).name, test.upstream)
				want(t, receive(t, dialled), test.addr)
				leaf := c.ConnectionState().PeerCertificates[0]
				if _, err := leaf.Verify(x509.VerifyOptions{Roots: s.trusting().RootCAs, DNSName: test.leaf}); err != nil {
					t.Errorf("%s: %v", e.name, err)
				}
				if len(dialled) > 0 {
					t.Errorf("%s: %s was dialled, too", e.name, <-dialled)
				}
			}
		})
	}
}

// entriesTo are the ways to addr; to a name there is one less.
func entriesTo(addr string) []entry {
	ways := []entry{
		{"CONNECT", nil, addr, func(t testing.TB, proxy, early string) *peer { return connect(t, proxy, addr, early) }},
		{"SOCKS5", nil, addr, func(t testing.TB, proxy, early string) *peer { return socksTo(t, proxy, addr, early) }},
	}
	if _, err := netip.ParseAddrPort(addr); err == nil {
		e := entries[2]
		e.mode, e.addr = mitm.Transparent{Lookup: lookup(addr)}, addr
		ways = append(ways, e)
	}
	return ways
}

// A leaf has all names of the origin's certificate.
func TestR45_MirroredNames(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s, _, _ := newAskedSite(t, e, func(c *x509.Certificate) {
			c.DNSNames = []string{"first.test", "*.wild.test", "site.test"}
			c.IPAddresses = []net.IP{net.ParseIP("192.0.2.7").To4(), net.ParseIP("2001:db8::7")}
		})
		leaf := s.mustSpeak(t, start(t, s.p), s.trusting()).ConnectionState().PeerCertificates[0]
		slices.Sort(leaf.DNSNames)
		if !slices.Equal(leaf.DNSNames, []string{"*.wild.test", "first.test", "site.test"}) || len(leaf.IPAddresses) != 2 {
			t.Errorf("a leaf for %q %v", leaf.DNSNames, leaf.IPAddresses)
		}
	})
}

// A client that knows nothing newer than TLS 1.1 is told so by an alert.
func TestR49_OldClient(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newSite(t, e)
			done, flows := doneHook()
			s.p.Hooks = []mitm.Hook{done}
			_, _, err := s.speak(t, start(t, s.p), only(s.trusting(), version))
			if err == nil || err.Error() != "remote error: tls: protocol version not supported" {
				t.Errorf("the client got %v", err)
			}
			if op, ok := errors.AsType[*mitm.OpError](nextFlow(t, flows).Err); !ok || op.Op != "client tls" {
				t.Errorf("flow ended with %v", op)
			}
			s.untouched(t, "site.test")
		})
	}
}

// A client that knows weak ciphers only is refused likewise.
func TestR49_WeakClient(t *testing.T) {
	for _, suite := range []uint16{
		tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA,
		tls.TLS_RSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256,
	} {
		t.Run(tls.CipherSuiteName(suite), func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newSite(t, e)
				config := only(s.trusting(), tls.VersionTLS12)
				config.CipherSuites = []uint16{suite}
				_, _, err := s.speak(t, start(t, s.p), config)
				if err == nil || err.Error() != "remote error: tls: handshake failure" {
					t.Errorf("the client got %v", err)
				}
				s.untouched(t, "site.test")
			})
		})
	}
}
