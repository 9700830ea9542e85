package mitm_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// allFlows ends p and returns what DoneHooks were told of.
func allFlows(t *testing.T, p *mitm.Proxy, flows chan *mitm.Flow) (all []*mitm.Flow) {
	t.Helper()
	shutdown(t, p)
	for len(flows) > 0 {
		all = append(all, <-flows)
	}
	return all
}

// alertAfter sends an alert as a client of TLS 1.3 that looks at the certificate only when the
// handshake is through. Its secret is in the log of keys.
func alertAfter(t *testing.T, c *tls.Conn, keys string, alert byte) {
	t.Helper()
	skipUnless(t, c.ConnectionState().CipherSuite == tls.TLS_AES_128_GCM_SHA256, "needs AES in hardware")
	_, line, _ := strings.Cut(keys, "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	expand := func(label string, n int) []byte { // HKDF-Expand-Label (RFC 8446, section 7.1)
		label = "tls13 " + label
		key, _ := hkdf.Expand(sha256.New, secret, "\x00"+string([]byte{byte(n), byte(len(label))})+label+"\x00", n)
		return key
	}
	block, _ := aes.NewCipher(expand("key", 16))
	aead, _ := cipher.NewGCM(block)
	const header = "\x17\x03\x03\x00\x13" // a record of 2 bytes, their type, and the tag
	c.NetConn().Write(aead.Seal([]byte(header), expand("iv", 12), []byte{2, alert, 21}, []byte(header)))
}

// refusals are ways to refuse the certificate; what they return is the connection.
var refusals = map[string]func(t *testing.T, s *openedSite, proxy string, protocols ...string) io.Closer{
	"TLS 1.2": func(t *testing.T, s *openedSite, proxy string, protocols ...string) io.Closer {
		return refuse(t, s, proxy, tls.VersionTLS12, protocols)
	},
	"TLS 1.3": func(t *testing.T, s *openedSite, proxy string, protocols ...string) io.Closer {
		return refuse(t, s, proxy, tls.VersionTLS13, protocols)
	},
	"TLS 1.3, later": func(t *testing.T, s *openedSite, proxy string, protocols ...string) io.Closer {
		return speakThenAlert(t, s, proxy, 48, protocols...)
	},
}

// refuse is a client that does not trust the CA.
func refuse(t *testing.T, s *openedSite, proxy string, version uint16, protocols []string) io.Closer {
	t.Helper()
	config := only(s.trusting(protocols...), version)
	config.RootCAs = s.other.pool()
	c, _, err := s.speak(t, proxy, config)
	if !isError[*tls.CertificateVerificationError](err) {
		t.Errorf("the client got %v", err)
	}
	return c
}

func speakThenAlert(t *testing.T, s *openedSite, proxy string, alert byte, protocols ...string) io.Closer {
	t.Helper()
	keys := new(records)
	config := only(s.trusting(protocols...), tls.VersionTLS13)
	config.KeyLogWriter = keys
	c := s.mustSpeak(t, proxy, config)
	alertAfter(t, c, keys.buf.String(), alert)
	return c
}

// A client that refuses the certificate is reported as that, once.
func TestCertificateRefused(t *testing.T) {
	for name, refuse := range refusals {
		for _, protocols := range [][]string{nil, {"http/1.1"}, {"h2", "http/1.1"}} {
			t.Run(name+fmt.Sprint(protocols), func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newSite(t, e)
					done, flows := doneHook()
					s.p.Hooks = []mitm.Hook{done, unreadHook(t)}
					c := refuse(t, s, start(t, s.p), protocols...)
					f := nextFlow(t, flows)
					c.Close()
					op, ok := errors.AsType[*mitm.OpError](f.Err)
					if !errors.Is(f.Err, mitm.ErrCertificateRefused) || !ok || op.Op != "client tls" || op.Addr != e.addr {
						t.Errorf("flow ended with %v", f.Err)
					}
					want(t, f.Conn.ServerName, "site.test")
					if more := allFlows(t, s.p, flows); len(more) > 0 {
						t.Errorf("and there is a flow that ended with %v", more[0].Err)
					}
					s.untouched(t, "site.test")
				})
			})
		}
	}
}

// A client that leaves, or has another complaint, has not refused the certificate.
func TestCertificateNotRefused(t *testing.T) {
	for name, leave := range map[string]func(t *testing.T, s *openedSite, proxy string){
		"close_notify": func(t *testing.T, s *openedSite, proxy string) { s.mustSpeak(t, proxy, s.trusting()).Close() },
		"end":          func(t *testing.T, s *openedSite, proxy string) { tcpOf(s.mustSpeak(t, proxy, s.trusting())).Close() },
		"reset": func(t *testing.T, s *openedSite, proxy string) {
			c := tcpOf(s.mustSpeak(t, proxy, s.trusting()))
			c.SetLinger(0)
			c.Close()
		},
		"end in the handshake": func(t *testing.T, s *openedSite, proxy string) {
			c := s.e.open(t, proxy, smallHello("site.test"))
			c.read(100)
			c.Close()
		},
		"old version": func(t *testing.T, s *openedSite, proxy string) {
			s.speak(t, proxy, only(s.trusting(), tls.VersionTLS11))
		},
		"user_canceled": func(t *testing.T, s *openedSite, proxy string) {
			c := s.e.open(t, proxy, smallHello("site.test"))
			c.read(100)
			c.send("\x15\x03\x03\x00\x02\x02\x5a")
			c.Close()
		},
		"internal_error": func(t *testing.T, s *openedSite, proxy string) { speakThenAlert(t, s, proxy, 80).Close() },
		"request": func(t *testing.T, s *openedSite, proxy string) {
			c := s.mustSpeak(t, proxy, s.trusting())
			askTLS(t, c, "/")
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newSite(t, e)
				done, flows := doneHook()
				s.p.Hooks, s.p.TunnelPinned = []mitm.Hook{done}, time.Hour
				proxy := start(t, s.p)
				leave(t, s, proxy)
				if f := nextFlow(t, flows); errors.Is(f.Err, mitm.ErrCertificateRefused) {
					t.Errorf("flow ended with %v", f.Err)
				}
				if got, err := s.shown(t, proxy, "site.test"); got == "good root" || err != nil {
					t.Errorf("then, a certificate by %q, %v", got, err)
				}
			})
		})
	}
}

// A client that refused the certificate of a name is tunnelled to that name, and to no other.
func TestTunnelPinned(t *testing.T) {
	for name, refuse := range refusals {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				for _, test := range []struct {
					life   time.Duration
					action mitm.Action
					want   string
				}{
					{0, mitm.Default, ""}, {-1, mitm.Default, ""}, {time.Hour, mitm.Default, "good root"}, {time.Hour, mitm.Intercept, ""},
				} {
					s := newSite(t, e)
					opened := s.p.CA.Certificate().Subject.CommonName
					if test.want == "" {
						test.want = opened
					}
					done, flows := doneHook()
					s.p.TunnelPinned, s.p.Hooks = test.life, []mitm.Hook{done, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						if c.Protocol == mitm.TLS {
							return test.action, nil
						}
						return mitm.Default, nil
					})}
					s.p.OriginTLS.InsecureSkipVerify = true
					proxy := start(t, s.p)
					shown := func(when, name, want string) {
						t.Helper()
						if got, err := s.shown(t, proxy, name); got != want || err != nil {
							t.Errorf("life %v, %s: %s has a certificate by %q, %v; want %q", test.life, when, name, got, err, want)
						}
						nextFlow(t, flows)
					}
					shown("before", "site.test", opened)
					c := refuse(t, s, proxy)
					nextFlow(t, flows)
					c.Close()
					for range 2 {
						shown("after", "site.test", test.want)
						shown("after", "other.test", opened)
						shown("after", "", opened)
					}
				}
			})
		})
	}
}

// The tunnelling ends after the time that was set.
func TestTunnelPinnedEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &mitm.Proxy{TunnelPinned: time.Minute}
		i := inMemoryTLS(t, p, &tls.Config{}, func(c *tls.Conn) { io.Copy(io.Discard, c) })
		opened := func(trusting bool) bool {
			c := &peer{Conn: i.open(), t: t}
			tunnel(c, "example.com:443")
			config := &tls.Config{ServerName: "example.com", RootCAs: i.roots, InsecureSkipVerify: trusting}
			if !trusting {
				config.RootCAs = poolOf(newIssuer(t, "other").cert)
			}
			tc := tls.Client(c.Conn, config)
			err := tc.Handshake()
			c.Close()
			synctest.Wait()
			return err == nil && slices.Equal(tc.ConnectionState().PeerCertificates[0].RawIssuer, p.CA.Certificate().RawSubject)
		}
		if opened(false) {
			t.Error("not refused")
		}
		for after, want := range map[time.Duration]bool{0: false, time.Minute - 1: false} {
			time.Sleep(after)
			if opened(true) != want {
				t.Errorf("%v later: opened %v", after, !want)
			}
		}
		time.Sleep(time.Minute)
		if !opened(true) {
			t.Error("the tunnelling does not end")
		}
	})
}
