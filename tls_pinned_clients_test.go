package mitm_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// pinnedLab is site.test and a proxy that tunnels clients which don't accept its certificates.
type pinnedLab struct {
	*secureLab
	cert       tls.Certificate // of site.test
	root, both string          // files: site.test's CA, and the proxy's as well
}

func newPinnedLab(t *testing.T, hooks ...mitm.Hook) *pinnedLab {
	t.Helper()
	f, ca := newFarm(t), newCA(t)
	l := &pinnedLab{secureLab: &secureLab{farm: f}, cert: f.root.leaf("site.test", newKey(t), nil)}
	l.serve("site.test", &tls.Config{Certificates: []tls.Certificate{l.cert}})
	l.root = l.file("root.pem", pemOf(f.root.cert))
	l.both = l.file("both.pem", append(pemOf(f.root.cert), ca.PEM()...))
	l.p = &mitm.Proxy{CA: ca, Dial: f.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()}, TunnelPinned: time.Hour, Hooks: hooks}
	l.proxy = start(t, l.p)
	return l
}

func (l *pinnedLab) hash() string {
	sum := sha256.Sum256(l.cert.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// pinnedClients accept nothing but the certificate of site.test, and fetch /hello from there. They
// fail as often as fails says before they are tunnelled.
var pinnedClients = map[string]struct {
	tool  string
	fails int
	run   func(t *testing.T, l *pinnedLab, version string) *exec.Cmd // 1.2 or 1.3
}{
	"curl": {"curl", 1, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		return l.command(t, nil, "curl", "-q", "-sS", "--proxy", "http://"+l.proxy, "--http1.1", "--tls-max", version, "--cacert", l.root, hello)
	}},
	"curl, pinned": {"curl", 2, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		sum := sha256.Sum256(l.cert.Leaf.RawSubjectPublicKeyInfo)
		pin := "sha256//" + base64.StdEncoding.EncodeToString(sum[:])
		return l.command(t, nil, "curl", "-q", "-sS", "--proxy", "http://"+l.proxy, "--http1.1", "--tls-max", version, "--cacert", l.both, "--pinnedpubkey", pin, hello)
	}},
	"Node": {"node", 2, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		return l.command(t, nil, "node", "testdata/clients/pinned.js", l.proxy, "site.test", "/hello", l.root, "TLSv"+version)
	}},
	"Python":         {"python3", 1, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd { return l.python(t, l.root, version) }},
	"Python, pinned": {"python3", 2, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd { return l.python(t, l.both, version) }},
	"Java, pinned": {"javac", 2, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		_, port, _ := net.SplitHostPort(l.proxy)
		return l.command(t, nil, "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "testdata/clients/Pinned.java",
			port, "site.test", "/hello", l.both, l.hash(), "TLSv"+version)
	}},
	"wget": {"wget", 2, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		options := map[string]string{"1.2": "TLSv1_2", "1.3": "TLSv1_3"}
		return l.command(t, nil, "wget", "--no-config", "-q", "-O-", "-t1", "-e", "use_proxy=yes", "-e", "https_proxy=http://"+l.proxy,
			"--secure-protocol="+options[version], "--ca-certificate="+l.root, hello)
	}},
	"openssl": {"openssl", 1, func(t *testing.T, l *pinnedLab, version string) *exec.Cmd {
		cmd := l.sClient(t, helloRequest, "-CAfile", l.root, "-quiet", "-ign_eof", "-tls"+strings.Replace(version, ".", "_", 1))
		cmd.Stderr = nil
		return cmd
	}},
}

func (l *pinnedLab) python(t *testing.T, cas, version string) *exec.Cmd {
	return l.command(t, nil, "python3", "testdata/clients/pinned.py", l.proxy, "site.test", "/hello", cas, l.hash(), "TLSv"+strings.Replace(version, ".", "_", 1))
}

// Clients of all kinds are tunnelled once it is known that they don't accept our certificate.
func TestR85_PinnedClients(t *testing.T) {
	for name, client := range pinnedClients {
		for _, version := range []string{"1.2", "1.3"} {
			t.Run(name+" TLS "+version, func(t *testing.T) {
				lookTool(t, client.tool)
				t.Parallel()
				l := newPinnedLab(t)
				for range client.fails {
					wantFailure(t, client.run(t, l, version))
				}
				if got := output(t, client.run(t, l, version)); !strings.HasSuffix(got, "HTTP/1.1 /hello") {
					t.Errorf("got %q", got)
				}
			})
		}
	}
}
