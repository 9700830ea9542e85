package mitm_test

import (
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"example.com/mitm"
)

// nssClient is NSS's own client with a request. It trusts the CA in a file and
// connects to the proxy, as to a transparent one.
func (l *secureLab) nssClient(t *testing.T, ca, version string, args ...string) *exec.Cmd {
	t.Helper()
	db := "sql:" + t.TempDir()
	output(t, l.command(t, nil, "certutil", "-N", "-d", db, "--empty-password"))
	output(t, l.command(t, nil, "certutil", "-A", "-d", db, "-n", "ca", "-t", "C,,", "-a", "-i", ca))
	_, port, _ := net.SplitHostPort(l.proxy)
	args = append([]string{"-h", "127.0.0.1", "-p", port, "-a", "site.test", "-d", db, "-V", version + ":" + version,
		"-A", l.file("request", []byte(helloRequest))}, args...) // it never ends with a pipe
	return l.command(t, nil, "tstclnt", args...)
}

// NSS verifies in its own time: in TLS 1.2 its alert comes after the handshake, and encrypted. It uses
// an RSA key only as its usage says.
func TestR85_NSS(t *testing.T) {
	lookTool(t, "tstclnt")
	for _, version := range []string{"tls1.2", "tls1.3"} {
		t.Run(version, func(t *testing.T) {
			l := newPinnedLab(t)
			done, flows := doneHook()
			l.p = &mitm.Proxy{
				Mode: mitm.Transparent{Lookup: func(net.Conn) (netip.AddrPort, error) { return transparentAddr, nil }},
				CA:   l.p.CA, Dial: l.dial, OriginTLS: l.p.OriginTLS, TunnelPinned: l.p.TunnelPinned, Hooks: []mitm.Hook{done},
			}
			l.addrs[transparentAddr.Addr().String()] = l.addrs["site.test"]
			l.proxy = start(t, l.p)
			if got := output(t, l.nssClient(t, l.file("ca.pem", l.p.CA.PEM()), version)); !strings.HasSuffix(got, "HTTP/1.1 /hello") {
				t.Errorf("got %q", got)
			}
			if f := nextFlow(t, flows); f.Err != nil {
				t.Errorf("flow ended with %v", f.Err)
			}
			if version == "tls1.2" {
				got := output(t, l.nssClient(t, l.file("ca.pem", l.p.CA.PEM()), version, "-c", ":C02F")) // ECDHE_RSA
				if !strings.HasSuffix(got, "HTTP/1.1 /hello") {
					t.Errorf("got %q with RSA", got)
				}
				nextFlow(t, flows)
			}
			wantFailure(t, l.nssClient(t, l.root, version))
			if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrCertificateRefused) {
				t.Errorf("flow ended with %v", f.Err)
			}
			if got := output(t, l.nssClient(t, l.root, version)); !strings.HasSuffix(got, "HTTP/1.1 /hello") {
				t.Errorf("got %q through a tunnel", got)
			}
		})
	}
}
