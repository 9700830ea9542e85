package mitm_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// extension is one of a ClientHello.
func extension(kind uint16, data string) string {
	b := binary.BigEndian.AppendUint16(nil, kind)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(data)))) + data
}

func vector16(data string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(len(data)))) + data
}

// helloWith is a ClientHello of TLS 1.2 with these extensions and no others.
func helloWith(extensions ...string) string {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + vector16("\xc0\x2b\xc0\x2f") + "\x01\x00" + vector16(strings.Join(extensions, ""))
	message := "\x01\x00" + vector16(body)
	return "\x16\x03\x01" + vector16(message)
}

func serverNameExtension(name string) string { return extension(0, vector16("\x00"+vector16(name))) }

// ssl2Hello is one in the form of SSL 2.0 for TLS 1.2 (RFC 5246, appendix E.2), which GnuTLS answers.
const ssl2Hello = "\x80\x1f\x01\x03\x03\x00\x06\x00\x00\x00\x10\x00\xc0\x2f\x00\x00\x2frrrrrrrrrrrrrrrr"

// refusedHellos are what crypto/tls does not read, although others do, with the server name and the
// protocols that are in them all the same.
var refusedHellos = map[string]struct {
	hello, name, protocol string
}{
	"a dot behind the name":  {helloWith(serverNameExtension("Site.test."), extension(16, vector16("\x02h2"))), "site.test", "h2"},
	"an extension twice":     {helloWith(serverNameExtension("site.test"), extension(0x2a2a, ""), extension(0x2a2a, "")), "site.test", ""},
	"an empty ALPN":          {helloWith(serverNameExtension("site.test"), extension(16, vector16(""))), "site.test", ""},
	"an empty name":          {helloWith(serverNameExtension(""), extension(16, vector16("\x02h2"))), "", "h2"},
	"no name in the list":    {helloWith(extension(0, vector16(""))), "", ""},
	"two names":              {helloWith(extension(0, vector16("\x00"+vector16("site.test")+"\x00"+vector16("b.test")))), "site.test", ""},
	"bytes behind":           {inOneRecord("\x01\x00" + vector16(helloWith(serverNameExtension("site.test"))[9:]+"xyz")), "site.test", ""},
	"an empty record first":  {"\x16\x03\x01\x00\x00" + smallHello("site.test", "h2"), "site.test", "h2"},
	"ChangeCipherSpec first": {"\x14\x03\x03\x00\x01\x01" + smallHello("site.test", "h2"), "site.test", "h2"}, // GnuTLS reads it
	"the form of SSL 2.0":    {ssl2Hello, "", ""},
	"a name that is too big": {helloWith(extension(0, "\xff\xff\x00\x00\x09site.test")), "site.test", ""},
}

func inOneRecord(message string) string { return "\x16\x03\x01" + vector16(message) }

// A ClientHello that crypto/tls refuses is one. Hooks see what it says; if TLS is to be terminated, which
// is impossible with it, the client is refused by an alert; a tunnel takes it as it came.
func TestR61_RefusedHellos(t *testing.T) {
	for name, test := range refusedHellos {
		t.Run(name, func(t *testing.T) {
			if helloOf([]byte(test.hello)) != nil {
				t.Fatal("crypto/tls reads it")
			}
			eachEntry(t, func(t *testing.T, e entry) {
				for _, action := range []mitm.Action{mitm.Default, mitm.Intercept, mitm.Tunnel, mitm.Reject} {
					for _, ca := range []*mitm.CA{newCA(t), nil} {
						wantRefusedHello(t, e, ca, action, test.hello, test.name, test.protocol)
					}
				}
			})
		})
	}
}

func wantRefusedHello(t *testing.T, e entry, ca *mitm.CA, action mitm.Action, hello, name, protocol string) {
	t.Helper()
	s := newRawSite(t, e, echo(t))
	s.p.CA = ca
	done, flows := doneHook()
	asked := make(chan *mitm.Conn, 8)
	s.p.Hooks = []mitm.Hook{done, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.Protocol == mitm.Unknown {
			return mitm.Default, nil
		}
		asked <- c
		return action, nil
	})}
	c := e.open(t, start(t, s.p), hello)
	tunnelled := action == mitm.Tunnel || ca == nil && action != mitm.Reject
	if ca == nil && e.name == "CONNECT" { // which is tunnelled at once
		tunnelled = true
		asked <- &mitm.Conn{Protocol: mitm.TLS, ServerName: name, RawClientHello: []byte(hello),
			ClientHello: &tls.ClientHelloInfo{SupportedProtos: []string{protocol}}}
	}
	if tunnelled {
		want(t, c.read(len(hello)), hello)
	}
	c.closeWrite()
	got, _ := c.rest()
	if isAlert := strings.HasPrefix(got, "\x15\x03"); isAlert == tunnelled || tunnelled && got != "" {
		t.Errorf("%v, CA %v: the client got %.20q", action, ca != nil, got)
	}
	seen := receive(t, asked)
	if seen.Protocol != mitm.TLS || seen.ServerName != name || string(seen.RawClientHello) != hello {
		t.Errorf("the hook saw %v for %q, %q", seen.Protocol, seen.ServerName, seen.RawClientHello)
	}
	if protocols := seen.ClientHello.SupportedProtos; protocol != "" && !slices.Contains(protocols, protocol) {
		t.Errorf("the hook saw the protocols %q, want %q", protocols, protocol)
	}
	f := nextFlow(t, flows)
	wantErr := map[bool]error{true: mitm.ErrRejected, false: mitm.ErrUnread}[action == mitm.Reject]
	if f.Tunnel != tunnelled || !tunnelled && !errors.Is(f.Err, wantErr) {
		t.Errorf("%v, CA %v: flow: tunnel %v, %v", action, ca != nil, f.Tunnel, f.Err)
	}
}

// Names are compared in one form, and sent in the one that the client chose.
func TestR62_OneForm(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		seen := make(chan *mitm.Conn, 8)
		s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.Protocol == mitm.TLS {
				seen <- c
			}
			return mitm.Default, nil
		})}
		config := s.trusting("http/1.1")
		config.ServerName, config.InsecureSkipVerify = "SITE.test", true
		c := s.mustSpeak(t, start(t, s.p), config)
		defer c.Close()
		got := receive(t, seen)
		want(t, got.ServerName+" "+got.ClientHello.ServerName, "site.test SITE.test")
	})
	for addr, name := range map[string]string{
		"Site.Test.:443": "site.test", "site.test:1": "site.test", "[2001:DB8::1]:443": "2001:db8::1", "192.0.2.1:80": "192.0.2.1", "": "",
	} {
		want(t, mitm.Destination{Addr: addr}.Name(), name)
	}
}
