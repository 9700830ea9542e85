package mitm_test

import (
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/mitm"
)

// sClient is openssl s_client with a request on its standard input, or none.
func (l *secureLab) sClient(t *testing.T, request string, args ...string) *exec.Cmd {
	cmd := l.command(t, nil, "openssl", append([]string{"s_client", "-proxy", l.proxy, "-connect", "site.test:443", "-servername", "site.test",
		"-verify_return_error", "-verify_hostname", "site.test"}, args...)...)
	cmd.Stdin = strings.NewReader(request)
	return cmd
}

// helloRequest makes the origin close, which ends the client.
const helloRequest = "GET /hello HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n"

// countLines says how many lines of output begin with prefix.
func countLines(output, prefix string) (n int) {
	for line := range strings.Lines(output) {
		if strings.HasPrefix(line, prefix) {
			n++
		}
	}
	return n
}

func TestOpenSSL(t *testing.T) {
	lookTool(t, "openssl")
	l := newSecureLab(t, nil, nil)
	for version, name := range map[string]string{"-tls1_2": "TLS 1.2", "-tls1_3": "TLS 1.3"} {
		for alpn, line := range map[string]string{
			"":            "No ALPN negotiated",
			"http/1.1":    "ALPN protocol: http/1.1",
			"h2,http/1.1": "ALPN protocol: h2",
			"http/1.1,h2": "ALPN protocol: h2", // the origin's choice
		} {
			t.Run(name+" "+alpn, func(t *testing.T) {
				args, request := []string{version, "-CAfile", l.ca, "-ign_eof"}, helloRequest
				if alpn != "" {
					args = append(args, "-alpn", alpn)
				}
				if strings.Contains(line, "h2") {
					args, request = args[:len(args):len(args)], "" // speaks no HTTP/2
					args[3] = "-no_ign_eof"
				}
				got := output(t, l.sClient(t, request, args...))
				for _, line := range []string{line, "Verification: OK", "Verified peername: site.test"} {
					if countLines(got, line) != 1 {
						t.Errorf("no line %q in %s", line, got)
					}
				}
				if request != "" {
					if !strings.Contains(got, "HTTP/1.1 /hello edited\n") {
						t.Errorf("no answer in %s", got)
					}
					l.saw(t, "GET "+hello+" HTTP/1.1 "+name)
				}
			})
		}
		wantFailure(t, l.sClient(t, "", version, "-CAfile", l.other))
		l.refused(t)
	}
}

// A client comes back with its session, on new connections.
func TestOpenSSLResumption(t *testing.T) {
	lookTool(t, "openssl")
	l := newSecureLab(t, nil, nil)
	got := output(t, l.sClient(t, "", "-tls1_2", "-CAfile", l.ca, "-reconnect"))
	if full, resumed := countLines(got, "New, TLSv1.2"), countLines(got, "Reused, TLSv1.2"); full != 1 || resumed != 5 {
		t.Errorf("%d full handshakes and %d resumptions in %s", full, resumed, got)
	}
	for _, version := range []string{"TLSv1.2", "TLSv1.3"} {
		flag := map[string]string{"TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}[version]
		session := filepath.Join(t.TempDir(), "session")
		got := output(t, l.sClient(t, helloRequest, flag, "-CAfile", l.ca, "-ign_eof", "-sess_out", session))
		if countLines(got, "New, "+version) != 1 {
			t.Errorf("no full handshake in %s", got)
		}
		got = output(t, l.sClient(t, helloRequest, flag, "-CAfile", l.ca, "-ign_eof", "-sess_in", session))
		if countLines(got, "Reused, "+version) != 1 || !strings.Contains(got, "HTTP/1.1 /hello edited\n") {
			t.Errorf("no resumption, or no answer, in %s", got)
		}
	}
}

// transparentLab is for clients that know no proxy.
func transparentLab(t *testing.T) *secureLab {
	t.Helper()
	return newSecureLab(t, mitm.Transparent{Lookup: func(net.Conn) (netip.AddrPort, error) { return transparentAddr, nil }}, nil)
}

func TestNghttp(t *testing.T) {
	lookTool(t, "nghttp")
	l := transparentLab(t)
	file, _ := upload(t)
	for _, tt := range []struct{ args, answer string }{
		{"", "HTTP/2.0 /hello edited\n"},
		{"--data=" + file, "HTTP/2.0 /hello with 2097152 bytes edited\n"},
		{"--multiply=20", strings.Repeat("HTTP/2.0 /hello edited\n", 20)},
		{"--continuation", "HTTP/2.0 /hello edited\n"},
		{"--padding=100", "HTTP/2.0 /hello edited\n"},
		{"--window-bits=1", "HTTP/2.0 /hello edited\n"},
	} {
		args := append(strings.Fields(tt.args), "--no-verify-peer", "--header=:authority: site.test", "https://"+l.proxy+"/hello")
		want(t, output(t, l.command(t, nil, "nghttp", args...)), tt.answer)
		method := "GET "
		if strings.HasPrefix(tt.args, "--data") {
			method = "POST "
		}
		seen := strings.Fields(strings.Repeat(" x", strings.Count(tt.answer, "\n")))
		for i := range seen {
			seen[i] = method + "https://192.0.2.1/hello HTTP/2.0 TLS 1.3"
		}
		l.saw(t, seen...)
	}
}

func TestH2load(t *testing.T) {
	lookTool(t, "h2load")
	l := transparentLab(t)
	for _, protocol := range []string{"h2", "http/1.1"} {
		got := output(t, l.command(t, nil, "h2load", "--requests=300", "--clients=3", "--max-concurrent-streams=10",
			"--npn-list="+protocol, "--connect-to="+l.proxy, hello))
		if !strings.Contains(got, "300 succeeded, 0 failed, 0 errored, 0 timeout") || !strings.Contains(got, "Application protocol: "+protocol+"\n") {
			t.Errorf("got %s", got)
		}
		if len(l.seen) != 300 {
			t.Errorf("the hook saw %d requests over %s", len(l.seen), protocol)
		}
		for len(l.seen) > 0 {
			<-l.seen
		}
	}
}
