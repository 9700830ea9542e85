package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/mitm"
)

// buildExamples builds all of them and returns the directory of the programs.
func buildExamples(t *testing.T) string {
	t.Helper()
	sources, err := filepath.Glob("examples/*/*.go")
	if err != nil || len(sources) == 0 {
		t.Fatal(err, "no examples")
	}
	for _, name := range sources { // or a cached result would outlive a change
		if _, err := os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	out, err := exec.CommandContext(t.Context(), lookTool(t, "go"), "build", "-buildvcs=false", "-o", dir, "./examples/...").CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// runToEnd returns what a program that ends well by itself prints.
func runToEnd(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

// wantInOrder fails the test unless out has all parts, one after the other.
func wantInOrder(t *testing.T, out string, parts ...string) {
	t.Helper()
	rest, found := out, true
	for _, part := range parts {
		if _, rest, found = strings.Cut(rest, part); !found {
			t.Errorf("no %q, or too early, in\n%s", part, out)
			return
		}
	}
}

func TestExamples(t *testing.T) {
	dir := buildExamples(t)
	t.Run("demo", func(t *testing.T) {
		wantInOrder(t, runToEnd(t, dir+"/demo"), "X-Demo: added by the proxy", "price: 1 (was 100)", "always sunny", "403 Forbidden",
			"data: event 3", "502 Bad Gateway", "issued by CN=demo CA", "price: 1 (was 100)", "GET https://shop.example.com/price -> 200",
			"HTTP/2.0 200 OK", "in HTTP/2.0 with X-Demo: added by the proxy", "data: event 3", "always sunny", "not forged.example",
			"client refused the certificate", "issued by O=Acme Co", "price: 100\n", "tunnel bank.example.com:443",
			"hello through the tunnel", "closed, nothing left behind\n")
	})
	t.Run("transparent", func(t *testing.T) {
		for _, tool := range []string{"nft", "ip", "nsenter"} {
			lookTool(t, tool)
		}
		skipUnless(t, os.Geteuid() == 0, "needs root, or a kernel with user namespaces for everybody")
		out := runToEnd(t, dir+"/transparent", "-demo")
		for _, addr := range []string{"10.77.2.2", "[fd77:2::2]"} {
			for _, part := range []string{
				"called forged.example, arrived at " + addr + ":80\n",
				"GET https://" + addr + "/page -> 200\n",
				"in HTTP/2.0, called shop.example, arrived at " + addr + ":443\n",
				"in HTTP/2.0, called " + addr + ", arrived at " + addr + ":443\n",
				"in HTTP/2.0, called forged.example, arrived at " + addr + ":443\n",
				"220 " + addr + ":25 greets",
			} {
				if !strings.Contains(out, part) {
					t.Errorf("no %q in\n%s", part, out)
				}
			}
		}
	})
	t.Run("explicit", func(t *testing.T) {
		addr, _ := answering(t, ok200)
		p := startExample(t, dir+"/explicit")
		client := &http.Client{Timeout: patience, Transport: &http.Transport{
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr}), DisableKeepAlives: true,
		}}
		res, err := client.Get("http://" + addr + "/x")
		want(t, content(t, res, err), "ok")
		wantInOrder(t, p.interrupt(), "GET http://"+addr+"/x  200  0 bytes up, 2 down")
	})
	t.Run("intercept", func(t *testing.T) { exampleIntercept(t, dir+"/intercept") })
}

func exampleIntercept(t *testing.T, program string) {
	f := newFarm(t)
	f.serve("site", &tls.Config{Certificates: []tls.Certificate{f.root.leaf("pinned.test", newKey(t), func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	})}})
	files := t.TempDir()
	if err := os.WriteFile(files+"/root.pem", pemOf(f.root.cert), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", files+"/root.pem")
	p := startExample(t, program, "-cadir", files+"/ca", "-edit", "HTTP=edited", "-tunnel", "pinned.test")
	ca, err := mitm.OpenCA(files + "/ca")
	if err != nil {
		t.Fatal(err)
	}
	site := "https://" + f.addrs["site"]
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		want(t, getOnce(t, c.through(p.addr, ca), site+"/x"), strings.Replace(c.protocol, "HTTP", "edited", 1)+" /x")
		pinned := c.through(p.addr, ca)
		config := pinned.Transport.(*http.Transport).TLSClientConfig
		config.ServerName, config.RootCAs = "pinned.test", f.root.pool()
		want(t, getOnce(t, pinned, site+"/y"), c.protocol+" /y")
		want(t, getOnce(t, c.through(p.addr, ca), "https://mitm.invalid/cert.pem"), string(ca.PEM()))
	})
	out := p.interrupt()
	wantInOrder(t, out, "HTTP/1  GET "+site+"/x  200", "HTTP/2  GET "+site+"/x  200")
	if strings.Contains(out, "/y") || strings.Count(out, "CONNECT "+f.addrs["site"]+"  200") != 4 {
		t.Errorf("what was tunnelled is not printed as that:\n%s", out)
	}
}

// exampleProcess is an example that runs until it is interrupted.
type exampleProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *strings.Builder
	addr string
}

// startExample starts a program on a free port of loopback.
func startExample(t *testing.T, program string, args ...string) *exampleProcess {
	t.Helper()
	p := &exampleProcess{t: t, cmd: exec.Command(program, append(args, "-addr", "127.0.0.1:0")...), out: new(strings.Builder)}
	p.cmd.Stdout = p.out
	r, err := p.cmd.StderrPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	stderr := bufio.NewReader(r)
	for line := ""; p.addr == ""; {
		if line, err = stderr.ReadString('\n'); err != nil {
			t.Fatalf("%s does not listen: %v", program, err)
		}
		_, p.addr, _ = strings.Cut(strings.TrimSpace(line), "listening on ")
		p.addr, _, _ = strings.Cut(p.addr, ",")
	}
	go io.Copy(io.Discard, stderr)
	return p
}

// interrupt is Ctrl-C. It returns what the program printed.
func (p *exampleProcess) interrupt() string {
	p.t.Helper()
	p.cmd.Process.Signal(os.Interrupt)
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("interrupted, it ended with %v", err)
	}
	return p.out.String()
}
