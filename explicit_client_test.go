package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/net/proxy"

	"example.com/mitm"
)

// guarded is a proxy that wants a password; origin.test is addr. Its flows are told.
func guarded(t *testing.T, p *mitm.Proxy, addr string) (at string, flows chan *mitm.Flow) {
	done, flows := doneHook()
	p.Mode = mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"user": "p:ss wörd"})}
	p.Hooks = append(p.Hooks, done)
	p.Dial = func(ctx context.Context, network, to string) (net.Conn, error) {
		if to != "origin.test:80" && to != addr {
			return nil, &net.DNSError{Name: to, IsNotFound: true}
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	return start(t, p), flows
}

// runTool runs a program and returns what it printed and its exit status.
func runTool(t *testing.T, name string, args ...string) (out string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	} else if err != nil {
		status = exit.ExitCode()
	}
	return string(b), status
}

func TestExplicitCurl(t *testing.T) {
	t.Parallel()
	curl := lookTool(t, "curl")
	addr, heads := answering(t, ok200)
	const right, wrong, couldNot = "user:p:ss wörd", "user:p", 97 // CURLE_PROXY
	for name, test := range map[string]struct {
		args []string
		url  string
		want string // what is printed, and the exit status
	}{
		"SOCKS5 name":            {[]string{"--socks5-hostname", "AT", "-U", right}, "http://origin.test/", "ok200 0"},
		"SOCKS5 address":         {[]string{"--socks5", "AT", "-U", right}, "http://ADDR/", "ok200 0"},
		"SOCKS5 wrong password":  {[]string{"--socks5", "AT", "-U", wrong}, "http://ADDR/", fmt.Sprint("000 ", couldNot)},
		"SOCKS5 no password":     {[]string{"--socks5", "AT"}, "http://ADDR/", fmt.Sprint("000 ", couldNot)},
		"SOCKS5 unknown name":    {[]string{"--socks5-hostname", "AT", "-U", right}, "http://other.test/", fmt.Sprint("000 ", couldNot)},
		"SOCKS4":                 {[]string{"--socks4", "AT"}, "http://ADDR/", fmt.Sprint("000 ", couldNot)},
		"SOCKS4a":                {[]string{"--socks4a", "AT"}, "http://origin.test/", fmt.Sprint("000 ", couldNot)},
		"HTTP":                   {[]string{"-x", "AT", "-U", right}, "http://origin.test/", "ok200 0"},
		"HTTP wrong password":    {[]string{"-x", "AT", "-U", wrong}, "http://origin.test/", "no or wrong proxy credentials\n407 0"},
		"HTTP no password":       {[]string{"-x", "AT"}, "http://origin.test/", "no or wrong proxy credentials\n407 0"},
		"HTTP any way":           {[]string{"-x", "AT", "-U", right, "--proxy-anyauth"}, "http://origin.test/", "ok200 0"},
		"CONNECT":                {[]string{"-p", "-x", "AT", "-U", right}, "http://origin.test/", "ok200 0"},
		"CONNECT wrong password": {[]string{"-p", "-x", "AT", "-U", wrong}, "http://origin.test/", "000 56"}, // CURLE_RECV_ERROR
		"CONNECT any way":        {[]string{"-p", "-x", "AT", "-U", right, "--proxy-anyauth"}, "http://origin.test/", "ok200 0"},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				at, flows := guarded(t, p, addr)
				args := []string{"-q", "-s", "--noproxy", "", "-w", "%{http_code}"}
				for _, arg := range append(test.args, test.url) {
					args = append(args, strings.NewReplacer("AT", at, "ADDR", addr).Replace(arg))
				}
				out, status := runTool(t, curl, args...)
				if got := fmt.Sprint(out, " ", status); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				if strings.HasPrefix(test.want, "ok") {
					if head := <-heads; strings.Contains(head, "Proxy-") {
						t.Errorf("the origin got %q", head)
					}
				}
				p.Close()
				if len(flows) == 0 {
					t.Error("no flow tells of it")
				}
			})
		})
	}
}

// socksScript speaks SOCKS5 as a client that waits for nothing: arguments are the proxy's
// port, user, password, host and port.
const socksScript = `
import socket, struct, sys
at, user, password, host, port = sys.argv[1], *[a.encode() for a in sys.argv[2:5]], int(sys.argv[5])
s = socket.create_connection(("127.0.0.1", int(at)))
s.sendall(b"\x05\x02\x00\x02"
    + b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password
    + b"\x05\x01\x00\x03" + bytes([len(host)]) + host + struct.pack(">H", port)
    + b"GET / HTTP/1.0\r\n\r\n")
s.shutdown(socket.SHUT_WR)
got = b""
while b := s.recv(4096): got += b
print(got[:4].hex(), got[4:6].hex(), got[-2:].decode("latin-1"))
`

// tunnelScript opens a tunnel with http.client.
const tunnelScript = `
import base64, http.client, sys
at, credentials, host = sys.argv[1:]
c = http.client.HTTPConnection("127.0.0.1", int(at))
c.set_tunnel(host, 80, {"Proxy-Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()})
try:
    c.request("GET", "/")
    print(c.getresponse().read().decode())
except OSError as e:
    print(e)
`

func TestExplicitPython(t *testing.T) {
	t.Parallel()
	python := lookTool(t, "python3")
	addr, _ := answering(t, ok200)
	p := &mitm.Proxy{}
	at, _ := guarded(t, p, addr)
	_, port, _ := net.SplitHostPort(at)
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"SOCKS5":                 {[]string{socksScript, port, "user", "p:ss wörd", "origin.test", "80"}, "05020100 0500 ok"},
		"SOCKS5 wrong password":  {[]string{socksScript, port, "user", "p", "origin.test", "80"}, "05020101 "},
		"SOCKS5 unknown name":    {[]string{socksScript, port, "user", "p:ss wörd", "other.test", "80"}, "05020100 0504 \x00\x00"},
		"CONNECT":                {[]string{tunnelScript, port, "user:p:ss wörd", "origin.test"}, "ok"},
		"CONNECT wrong password": {[]string{tunnelScript, port, "user:p", "origin.test"}, "Tunnel connection failed: 407 Proxy Authentication Required"},
	} {
		t.Run(name, func(t *testing.T) {
			out, status := runTool(t, python, append([]string{"-c"}, test.args...)...)
			if !strings.HasPrefix(out, test.want) || status != 0 {
				t.Errorf("got %q, status %d, want %q", out, status, test.want)
			}
		})
	}
}

func TestExplicitGo(t *testing.T) {
	t.Parallel()
	addr, _ := answering(t, ok200)
	right, wrong := url.UserPassword("user", "p:ss wörd"), url.UserPassword("user", "p")
	for _, test := range []struct {
		scheme string
		user   *url.Userinfo
		ok     bool
	}{
		{"http", right, true}, {"http", wrong, false}, {"http", nil, false},
		{"socks5", right, true}, {"socks5", wrong, false}, {"socks5", nil, false},
		{"socks5h", right, true},
	} {
		t.Run(fmt.Sprint(test.scheme, " ", test.user), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				at, _ := guarded(t, p, addr)
				transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: test.scheme, User: test.user, Host: at})}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport, Timeout: patience}
				for range 2 {
					res, err := client.Get("http://origin.test/")
					if err != nil {
						if test.ok || test.scheme == "http" {
							t.Error(err)
						}
						continue
					}
					b, err := io.ReadAll(res.Body)
					res.Body.Close()
					if want := map[bool]int{true: 200, false: 407}[test.ok]; res.StatusCode != want || err != nil {
						t.Errorf("status %s, want %d: %q, %v", res.Status, want, b, err)
					}
				}
			})
		})
	}
}

func TestExplicitGoSOCKS(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	at, _ := guarded(t, &mitm.Proxy{}, addr)
	for password, want := range map[string]string{
		"p:ss wörd": "", "p": "username/password authentication failed",
	} {
		dialer, err := proxy.SOCKS5("tcp", at, &proxy.Auth{User: "user", Password: password}, nil)
		if err != nil {
			t.Fatal(err)
		}
		nc, err := dialer.Dial("tcp", "origin.test:80")
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("password %q: %v, want %q", password, err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		c := newPeer(t, nc)
		c.send("\x00ping")
		if got := c.read(5); got != "\x00ping" {
			t.Errorf("got %q", got)
		}
		c.Close()
		if _, err := dialer.Dial("tcp", "other.test:80"); err == nil || !strings.Contains(err.Error(), "host unreachable") {
			t.Errorf("unknown name: %v", err)
		}
	}
}
