package mitm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// secureLab is a proxy with a CA between real clients and https://site.test/, which is on
// loopback.
type secureLab struct {
	*farm
	p         *mitm.Proxy
	proxy     string          // host:port
	ca, other string          // files: the proxy's CA and one that has nothing to do with it
	seen      chan string     // "METHOD URL PROTOCOL TLSVERSION", as a hook saw it
	flows     chan *mitm.Flow // those that failed
	chosen    chan string     // the protocols of connections to serveTLS's addresses
}

// transparentAddr is where site.test is for clients that know no proxy.
var transparentAddr = netip.MustParseAddrPort("192.0.2.1:443")

// newSecureLab starts the proxy. Its hook appends " edited\n" to what the site answers at / and
// /hello. A nil handler is that of farm.serve.
func newSecureLab(t *testing.T, mode mitm.Mode, handler http.Handler) *secureLab {
	t.Helper()
	f, ca := newFarm(t), newCA(t)
	l := &secureLab{farm: f, seen: make(chan string, 1024), flows: make(chan *mitm.Flow, 1024), chosen: make(chan string, 1024)}
	config := &tls.Config{Certificates: []tls.Certificate{f.root.leaf("site.test", newKey(t), nil)}}
	if handler == nil {
		handler = http.HandlerFunc(describe)
	}
	l.serveHandler("site.test", config, handler)
	l.addrs[transparentAddr.Addr().String()] = l.addrs["site.test"]
	l.ca, l.other = l.file("ca.pem", ca.PEM()), l.file("other.pem", pemOf(f.other.cert))
	failed := mitm.OnDone(func(f *mitm.Flow) {
		if f.Err != nil && f.Conn.Destination.Addr == "site.test:443" {
			l.flows <- f
		}
	})
	l.p = &mitm.Proxy{
		Mode: mode, CA: ca, Dial: l.dial, OriginTLS: &tls.Config{RootCAs: f.root.pool()},
		Hooks: []mitm.Hook{failed, mitm.OnRequest(l.see), mitm.OnResponse(l.edit)},
	}
	l.proxy = start(t, l.p)
	return l
}

func (l *secureLab) file(name string, content []byte) string {
	l.t.Helper()
	name = filepath.Join(l.t.TempDir(), name)
	if err := os.WriteFile(name, content, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return name
}

func (l *secureLab) see(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.Host, "site.test") && req.TLS != nil { // browsers go elsewhere, too
		l.seen <- fmt.Sprintf("%s %s %s %s", req.Method, req.URL, req.Proto, tls.VersionName(req.TLS.Version))
	}
	return nil, nil
}

func (l *secureLab) edit(res *http.Response) error {
	if path := res.Request.URL.Path; path == "/" || path == "/hello" {
		res.Body = struct {
			io.Reader
			io.Closer
		}{io.MultiReader(res.Body, strings.NewReader(" edited\n")), res.Body}
	}
	return nil
}

// saw fails the test unless the hook saw just these, in any order.
func (l *secureLab) saw(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for len(l.seen) > 0 {
		got = append(got, <-l.seen)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the hook saw %q, want %q", got, want)
	}
}

// refused waits for a client to refuse the certificate.
func (l *secureLab) refused(t *testing.T) {
	t.Helper()
	var others []error // such as that of a connection that a browser opened in advance and left
	for timeout := time.After(patience); ; {
		select {
		case f := <-l.flows:
			if errors.Is(f.Err, mitm.ErrCertificateRefused) {
				want(t, f.Conn.ServerName, "site.test")
				return
			}
			others = append(others, f.Err)
		case <-timeout:
			t.Errorf("no refused certificate, but %v", others)
			return
		}
	}
}

// command prepares a client that finds no proxy but those in env and args, and runs with an
// empty standard input.
func (l *secureLab) command(t *testing.T, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, lookTool(t, name), args...)
	cmd.WaitDelay = patience
	for _, v := range os.Environ() {
		if key, _, _ := strings.Cut(strings.ToLower(v), "="); !strings.HasSuffix(key, "_proxy") && !strings.HasPrefix(key, "ssl_cert") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

// output runs a client that succeeds and returns what it printed.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s\n%s", cmd.Args, err, out, stderr.Bytes())
	}
	return string(out)
}

// wantFailure runs a client that fails.
func wantFailure(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if out, err := cmd.CombinedOutput(); !isError[*exec.ExitError](err) {
		t.Errorf("%q: %v, want a failure\n%s", cmd.Args, err, out)
	}
}

// serveTLS serves the proxy over TLS, too, and returns the address. The certificate is of
// the root that origins have.
func (l *secureLab) serveTLS(protocols ...string) string {
	l.t.Helper()
	cert := l.root.leaf("localhost", newKey(l.t), func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	cert.Certificate = append(cert.Certificate, l.root.cert.Raw)
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols, VerifyConnection: func(s tls.ConnectionState) error {
		l.chosen <- s.NegotiatedProtocol
		return nil
	}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		l.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.p.Serve(listener) }()
	l.t.Cleanup(func() {
		l.p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			l.t.Errorf("Serve returned %v", err)
		}
	})
	return listener.Addr().String()
}

const hello = "https://site.test/hello"

// secureVariants are what clients do: the two versions of TLS and of HTTP.
var secureVariants = []struct {
	tls, http string
	curl      []string
	short     string // how curl calls the version of HTTP
}{
	{"TLS 1.2", "HTTP/1.1", []string{"--tls-max", "1.2", "--http1.1"}, "1.1"},
	{"TLS 1.2", "HTTP/2.0", []string{"--tls-max", "1.2", "--http2"}, "2"},
	{"TLS 1.3", "HTTP/1.1", []string{"--tlsv1.3", "--http1.1"}, "1.1"},
	{"TLS 1.3", "HTTP/2.0", []string{"--tlsv1.3", "--http2"}, "2"},
}

func TestCurlTLS(t *testing.T) {
	lookTool(t, "curl")
	l := newSecureLab(t, nil, nil)
	file, _ := upload(t)
	for name, proxy := range map[string][]string{
		"CONNECT":             {"--proxy", "http://" + l.proxy},
		"SOCKS5":              {"--socks5-hostname", l.proxy},
		"CONNECT through TLS": {"--proxy", "https://" + l.serveTLS("http/1.1"), "--proxy-cacert", l.file("root.pem", pemOf(l.root.cert))},
	} {
		curl := func(t *testing.T, args ...string) *exec.Cmd {
			args = append(append([]string{"-q", "-sS", "--max-time", "20"}, proxy...), args...)
			return l.command(t, nil, "curl", args...)
		}
		for _, v := range secureVariants {
			t.Run(name+" "+v.tls+" "+v.http, func(t *testing.T) {
				args := append(v.curl, "--cacert", l.ca, "--data-binary", "@"+file, "-w", "%{http_version} %{num_connects}\n", hello, hello)
				answer := v.http + " /hello with 2097152 bytes edited\n" + v.short
				want(t, output(t, curl(t, args...)), answer+" 1\n"+answer+" 0\n")
				post := "POST " + hello + " " + v.http + " " + v.tls
				l.saw(t, post, post)
				wantFailure(t, curl(t, append(v.curl, "--cacert", l.other, hello)...))
				l.refused(t)
			})
		}
	}
}

func TestGoClientTLS(t *testing.T) {
	l := newSecureLab(t, nil, nil)
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		client := c.through(l.proxy, l.p.CA)
		for range 2 {
			res, err := client.Post(hello, "text/plain", strings.NewReader("abc"))
			want(t, content(t, res, err)+res.Proto, c.protocol+" /hello with 3 bytes edited\n"+c.protocol)
		}
		post := "POST " + hello + " " + c.protocol + " " + tls.VersionName(c.version)
		l.saw(t, post, post)
		if _, err := c.through(l.proxy, newCA(t)).Get(hello); !isError[*tls.CertificateVerificationError](err) {
			t.Errorf("a client that does not trust the CA got %v", err)
		}
		l.refused(t)
	})
}

// sawAll fails the test unless the hook saw each variant of a request so often.
func (l *secureLab) sawAll(t *testing.T, request string, times int) {
	t.Helper()
	var all []string
	for _, v := range secureVariants {
		for range times {
			all = append(all, request+" "+v.http+" "+v.tls)
		}
	}
	l.saw(t, all...)
}

func TestNodeTLS(t *testing.T) {
	lookTool(t, "node")
	l := newSecureLab(t, nil, nil)
	got := output(t, l.command(t, []string{"NODE_EXTRA_CA_CERTS=" + l.ca}, "node", "testdata/clients/client.js", "http://"+l.proxy, hello, l.other))
	want(t, got, "TLSv1.2 http/1.1 200 HTTP/1.1 /hello edited\n"+"TLSv1.2 h2 200 HTTP/2.0 /hello edited\n"+
		"TLSv1.3 http/1.1 200 HTTP/1.1 /hello edited\n"+"TLSv1.3 h2 200 HTTP/2.0 /hello edited\n"+
		"SELF_SIGNED_CERT_IN_CHAIN\n") // it tells its user, but sends no alert
	l.sawAll(t, "GET "+hello, 1)
}

func TestPythonTLS(t *testing.T) {
	lookTool(t, "python3")
	l := newSecureLab(t, nil, nil)
	got := output(t, l.command(t, []string{"https_proxy=http://" + l.proxy}, "python3", "testdata/clients/client.py", hello, l.ca, l.other))
	want(t, got, "TLSv1_2 HTTP/1.1 200 HTTP/1.1 /hello edited\n"+"TLSv1_2 HTTP/1.1 200 HTTP/1.1 /hello with 7 bytes edited\n"+
		"TLSv1_3 HTTP/1.1 200 HTTP/1.1 /hello edited\n"+"TLSv1_3 HTTP/1.1 200 HTTP/1.1 /hello with 7 bytes edited\n"+
		"CERTIFICATE_VERIFY_FAILED\n")
	get, post := "GET "+hello+" HTTP/1.1 ", "POST "+hello+" HTTP/1.1 "
	l.saw(t, get+"TLS 1.2", post+"TLS 1.2", get+"TLS 1.3", post+"TLS 1.3")
	l.refused(t)
}

func TestJavaTLS(t *testing.T) {
	lookTool(t, "javac")
	l := newSecureLab(t, nil, nil)
	store := filepath.Join(t.TempDir(), "trust.p12")
	output(t, l.command(t, nil, "keytool", "-importcert", "-noprompt", "-alias", "mitm", "-file", l.ca, "-keystore", store, "-storepass", "password"))
	_, port, _ := net.SplitHostPort(l.proxy)
	got := output(t, l.command(t, nil, "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
		"-Djavax.net.ssl.trustStore="+store, "-Djavax.net.ssl.trustStorePassword=password", "testdata/clients/Client.java", port, hello))
	want(t, got, strings.Repeat("TLSv1.2 HTTP_1_1 200 HTTP/1.1 /hello edited\n", 2)+strings.Repeat("TLSv1.2 HTTP_2 200 HTTP/2.0 /hello edited\n", 2)+
		strings.Repeat("TLSv1.3 HTTP_1_1 200 HTTP/1.1 /hello edited\n", 2)+strings.Repeat("TLSv1.3 HTTP_2 200 HTTP/2.0 /hello edited\n", 2)+
		"refused\nrefused\n")
	l.sawAll(t, "GET "+hello, 2)
	l.refused(t)
	l.refused(t)
}
