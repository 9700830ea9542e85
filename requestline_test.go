package mitm

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// requestLineTests has the lines that are accepted. Upstream is what appendOriginForm makes of the target.
var requestLineTests = []struct {
	line      string
	form      targetForm
	minor     int
	https     bool
	host      string
	port      uint16
	path      string
	authority string
	upstream  string
	hostPort  string
}{
	// RFC 9112, section 3.2.1: origin-form.
	{line: "GET / HTTP/1.1", minor: 1, path: "/", upstream: "/"},
	{line: "GET / HTTP/1.0", minor: 0, path: "/", upstream: "/"},
	{line: "GET / HTTP/1.2", minor: 1, path: "/", upstream: "/"},
	{line: "GET / HTTP/1.9", minor: 1, path: "/", upstream: "/"},
	{line: "get /a?b=c HTTP/1.1", minor: 1, path: "/a?b=c", upstream: "/a?b=c"},
	{line: "connect / HTTP/1.1", minor: 1, path: "/", upstream: "/"},
	{line: "!#$%&'*+-.^_`|~ / HTTP/1.1", minor: 1, path: "/", upstream: "/"},
	{line: "GET //path HTTP/1.1", minor: 1, path: "//path", upstream: "//path"},
	{line: "GET //u@h:0/path HTTP/1.1", minor: 1, path: "//u@h:0/path", upstream: "//u@h:0/path"},
	{line: "GET /http://h/ HTTP/1.1", minor: 1, path: "/http://h/", upstream: "/http://h/"},
	{line: "GET /../%2e%2E/? HTTP/1.1", minor: 1, path: "/../%2e%2E/?", upstream: "/../%2e%2E/?"},
	{line: "OPTIONS /? HTTP/1.1", minor: 1, path: "/?", upstream: "/?"},
	{
		line: "GET /%zz%/|{}\"\\^`<>[]?%u20 HTTP/1.1", minor: 1,
		path: "/%zz%/|{}\"\\^`<>[]?%u20", upstream: "/%zz%/|{}\"\\^`<>[]?%u20",
	},

	// RFC 9112, section 3.2.2: absolute-form.
	{
		line: "GET http://example.com/a?b HTTP/1.1", form: absoluteForm, minor: 1,
		host: "example.com", port: 80, path: "/a?b",
		authority: "example.com", upstream: "/a?b", hostPort: "example.com:80",
	},
	{
		line: "GET http://h HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80,
		authority: "h", upstream: "/", hostPort: "h:80",
	},
	{
		line: "GET http://h?q/@: HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80, path: "?q/@:",
		authority: "h", upstream: "/?q/@:", hostPort: "h:80",
	},
	{
		line: "GET http://h/%|@:0 HTTP/1.0", form: absoluteForm,
		host: "h", port: 80, path: "/%|@:0",
		authority: "h", upstream: "/%|@:0", hostPort: "h:80",
	},
	{
		line: "GET https://h HTTP/1.1", form: absoluteForm, minor: 1, https: true,
		host: "h", port: 443,
		authority: "h", upstream: "/", hostPort: "h:443",
	},
	{
		line: "GET http://h: HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80,
		authority: "h", upstream: "/", hostPort: "h:80",
	},
	{
		line: "GET https://h:/ HTTP/1.1", form: absoluteForm, minor: 1, https: true,
		host: "h", port: 443, path: "/",
		authority: "h", upstream: "/", hostPort: "h:443",
	},
	{
		line: "GET http://h:80/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80, path: "/",
		authority: "h:80", upstream: "/", hostPort: "h:80",
	},
	{
		line: "GET http://h:00081/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 81, path: "/",
		authority: "h:00081", upstream: "/", hostPort: "h:81",
	},
	{
		line: "GET HTTP://EXAMPLE.Com:65535/Path HTTP/1.1", form: absoluteForm, minor: 1,
		host: "EXAMPLE.Com", port: 65535, path: "/Path",
		authority: "EXAMPLE.Com:65535", upstream: "/Path", hostPort: "example.com:65535",
	},
	{
		line: "GET hTTpS://h/ HTTP/1.1", form: absoluteForm, minor: 1, https: true,
		host: "h", port: 443, path: "/",
		authority: "h", upstream: "/", hostPort: "h:443",
	},
	{
		line: "GET http://a_b-c.~!$&'()*+,;=%C3%bC/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "a_b-c.~!$&'()*+,;=%C3%bC", port: 80, path: "/",
		authority: "a_b-c.~!$&'()*+,;=%C3%bC", upstream: "/", hostPort: "a_b-c.~!$&'()*+,;=%c3%bc:80",
	},
	{
		line: "GET http://h%25eth0/ HTTP/1.1", form: absoluteForm, minor: 1, // no zone without an IPv6 address
		host: "h%25eth0", port: 80, path: "/",
		authority: "h%25eth0", upstream: "/", hostPort: "h%25eth0:80",
	},
	{
		line: "GET http://127.0.0.1:8080/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "127.0.0.1", port: 8080, path: "/",
		authority: "127.0.0.1:8080", upstream: "/", hostPort: "127.0.0.1:8080",
	},
	{
		line: "GET http://[::1] HTTP/1.1", form: absoluteForm, minor: 1,
		host: "::1", port: 80,
		authority: "[::1]", upstream: "/", hostPort: "[::1]:80",
	},
	{
		line: "GET https://[2001:DB8::1]:8443?q HTTP/1.1", form: absoluteForm, minor: 1, https: true,
		host: "2001:DB8::1", port: 8443, path: "?q",
		authority: "[2001:DB8::1]:8443", upstream: "/?q", hostPort: "[2001:db8::1]:8443",
	},
	{
		line: "GET http://[::ffff:192.0.2.1]:/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "::ffff:192.0.2.1", port: 80, path: "/",
		authority: "[::ffff:192.0.2.1]", upstream: "/", hostPort: "[::ffff:192.0.2.1]:80",
	},
	{
		line: "GET http://[FE80::1%25Eth0]:8080/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "FE80::1%25Eth0", port: 8080, path: "/",
		authority: "[FE80::1]:8080", upstream: "/", hostPort: "[fe80::1%Eth0]:8080",
	},
	{
		line: "OPTIONS http://h HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80,
		authority: "h", upstream: "*", hostPort: "h:80",
	},
	{
		line: "OPTIONS http://h/ HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80, path: "/",
		authority: "h", upstream: "/", hostPort: "h:80",
	},
	{
		line: "OPTIONS http://h? HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80, path: "?",
		authority: "h", upstream: "/?", hostPort: "h:80",
	},
	{
		line: "options http://h HTTP/1.1", form: absoluteForm, minor: 1,
		host: "h", port: 80,
		authority: "h", upstream: "/", hostPort: "h:80",
	},

	// RFC 9112, section 3.2.3: authority-form, which has no upstream form.
	{
		line: "CONNECT h:443 HTTP/1.1", form: authorityForm, minor: 1,
		host: "h", port: 443,
		authority: "h:443", upstream: "/", hostPort: "h:443",
	},
	{
		line: "CONNECT WWW.Example.COM.:00001 HTTP/1.0", form: authorityForm,
		host: "WWW.Example.COM.", port: 1,
		authority: "WWW.Example.COM.:00001", upstream: "/", hostPort: "www.example.com.:1",
	},
	{
		line: "CONNECT [::1]:443 HTTP/1.1", form: authorityForm, minor: 1,
		host: "::1", port: 443,
		authority: "[::1]:443", upstream: "/", hostPort: "[::1]:443",
	},
	{
		line: "CONNECT [fe80::1%25eth0]:443 HTTP/1.1", form: authorityForm, minor: 1,
		host: "fe80::1%25eth0", port: 443,
		authority: "[fe80::1]:443", upstream: "/", hostPort: "[fe80::1%eth0]:443",
	},

	// RFC 9112, section 3.2.4: asterisk-form.
	{line: "OPTIONS * HTTP/1.1", form: asteriskForm, minor: 1, path: "*", upstream: "*"},
}

func TestParseRequestLine(t *testing.T) {
	for _, tt := range requestLineTests {
		t.Run(tt.line, func(t *testing.T) {
			r, err := parseRequestLine([]byte(tt.line))
			if err != nil {
				t.Fatal(err)
			}
			words := strings.Split(tt.line, " ")
			check := func(what, got, want string) {
				t.Helper()
				if got != want {
					t.Errorf("%s = %q, want %q", what, got, want)
				}
			}
			check("method", string(r.method), words[0])
			check("target", string(r.target), words[1])
			check("host", string(r.host), tt.host)
			check("path", string(r.path), tt.path)
			check("appendAuthority", string(r.appendAuthority([]byte("Host: "))), "Host: "+tt.authority)
			check("appendOriginForm", string(r.appendOriginForm([]byte("GET "))), "GET "+tt.upstream)
			check("hostPort", r.hostPort(), tt.hostPort)
			if r.form != tt.form || r.minor != tt.minor || r.https != tt.https || r.port != tt.port {
				t.Errorf("form, minor, https, port = %v, %v, %v, %v, want %v, %v, %v, %v",
					r.form, r.minor, r.https, r.port, tt.form, tt.minor, tt.https, tt.port)
			}
		})
	}
}

var requestLineErrors = []struct {
	line string
	want error
}{
	// RFC 9112, section 3: one SP each, nothing else.
	{"", errLine},
	{" ", errLine},
	{"GET", errLine},
	{"GET ", errLine},
	{" GET / HTTP/1.1", errLine},
	{"GET  / HTTP/1.1", errLine},
	{"GET /  HTTP/1.1", errLine},
	{"GET / HTTP/1.1 ", errLine},
	{"GET /a b HTTP/1.1", errLine},
	{"GET / HTTP/1.1 HTTP/1.1", errLine},
	{"GET\t/\tHTTP/1.1", errLine},
	{"GET\t/ HTTP/1.1", errMethod},
	{"GET /\tHTTP/1.1", errTargetByte},
	{"GET \t/ HTTP/1.1", errTargetByte},
	{"GET / \tHTTP/1.1", errVersionSyntax},
	{"GET / HTTP/1.1\t", errVersionSyntax},

	// RFC 9110, section 9.1: the method is a token.
	{"G@T / HTTP/1.1", errMethod},
	{"GET: / HTTP/1.1", errMethod},
	{"\x00GET / HTTP/1.1", errMethod},
	{"\nGET / HTTP/1.1", errMethod},
	{"G\xcbT / HTTP/1.1", errMethod},

	// Bytes that no target has.
	{"GET /\x00 HTTP/1.1", errTargetByte},
	{"GET /a\rb HTTP/1.1", errTargetByte},
	{"GET /a\nb HTTP/1.1", errTargetByte},
	{"GET /\x7f HTTP/1.1", errTargetByte},
	{"GET /\xc3\xbc HTTP/1.1", errTargetByte},
	{"GET http\xc5\xbf://h/ HTTP/1.1", errTargetByte},
	{"GET http://h\x00/ HTTP/1.1", errTargetByte},
	{"GET http://\xe2\x84\xaa/ HTTP/1.1", errTargetByte},
	{"CONNECT h\x80:443 HTTP/1.1", errTargetByte},
	{"GET /# HTTP/1.1", errFragment},
	{"GET /a#b HTTP/1.1", errFragment},
	{"GET http://h#@i/ HTTP/1.1", errFragment},
	{"CONNECT h:443#b HTTP/1.1", errFragment},

	// RFC 9112, section 2.3: the version.
	{"GET /", errNoVersion},
	{"GET / ", errNoVersion},
	{"GET http://h/", errNoVersion},
	{"GET / http/1.1", errVersionSyntax},
	{"GET / Http/1.1", errVersionSyntax},
	{"GET / HTTP/1.10", errVersionSyntax},
	{"GET / HTTP/01.1", errVersionSyntax},
	{"GET / HTTP/1", errVersionSyntax},
	{"GET / HTTP/1.", errVersionSyntax},
	{"GET / HTTP/1,1", errVersionSyntax},
	{"GET / HTTP/1.x", errVersionSyntax},
	{"GET / HTTP/+.1", errVersionSyntax},
	{"GET / HTTP/", errVersionSyntax},
	{"GET / HTTPS/1.1", errVersionSyntax},
	{"GET / HTTP/1.1\r", errVersionSyntax},
	{"GET / HTTP/1.1\n", errVersionSyntax},
	{"GET / HTTP/1.1\x00", errVersionSyntax},
	{"GET / HTTP/0.9", errVersion},
	{"GET / HTTP/2.0", errVersion},
	{"GET / HTTP/9.9", errVersion},
	{"PRI * HTTP/2.0", errVersion},

	// RFC 9112, section 3.2: the form.
	{"PRI * HTTP/1.1", errAsterisk},
	{"GET * HTTP/1.1", errAsterisk},
	{"options * HTTP/1.1", errAsterisk},
	{"OPTIONS ** HTTP/1.1", errTarget},
	{"OPTIONS */ HTTP/1.1", errTarget},
	{"GET a HTTP/1.1", errTarget},
	{"GET ?q HTTP/1.1", errTarget},
	{"GET a/b HTTP/1.1", errTarget},
	{"GET \\ HTTP/1.1", errTarget},
	{"GET h:443 HTTP/1.1", errTarget},
	{"connect h:443 HTTP/1.1", errTarget},
	{"GET [::1]:443 HTTP/1.1", errTarget},
	{"GET :// HTTP/1.1", errTarget},
	{"GET 1http://h/ HTTP/1.1", errTarget},
	{"GET ht_tp://h/ HTTP/1.1", errTarget},
	{"GET ht%74p://h/ HTTP/1.1", errTarget},
	{"GET http HTTP/1.1", errTarget},
	{"GET http: HTTP/1.1", errTarget},
	{"GET http:h HTTP/1.1", errTarget},
	{"GET http:80 HTTP/1.1", errTarget},
	{"GET http:/h HTTP/1.1", errTarget},
	{"GET http:\\\\h HTTP/1.1", errTarget},
	{"GET ftp://h/ HTTP/1.1", errScheme},
	{"GET wss://h/ HTTP/1.1", errScheme},
	{"GET urn:isbn:1 HTTP/1.1", errScheme},
	{"GET h+t-t.p1: HTTP/1.1", errScheme},
	{"GET h:443/path HTTP/1.1", errScheme},

	// RFC 9110, section 9.3.6: CONNECT takes host and port.
	{"CONNECT / HTTP/1.1", errConnect},
	{"CONNECT * HTTP/1.1", errConnect},
	{"CONNECT ?q HTTP/1.1", errConnect},
	{"CONNECT http://h HTTP/1.1", errConnect},
	{"CONNECT https://h:443/ HTTP/1.1", errConnect},
	{"CONNECT h:1/path HTTP/1.1", errConnect},
	{"CONNECT h:1?q HTTP/1.1", errConnect},
	{"CONNECT h HTTP/1.1", errPort},
	{"CONNECT h: HTTP/1.1", errPort},
	{"CONNECT [::1] HTTP/1.1", errPort},
	{"CONNECT [::1]: HTTP/1.1", errPort},
	{"CONNECT h:0 HTTP/1.1", errPort},
	{"CONNECT h:65536 HTTP/1.1", errPort},
	{"CONNECT h:443:443 HTTP/1.1", errPort},
	{"CONNECT :443 HTTP/1.1", errHost},
	{"CONNECT 443 HTTP/1.1", errPort},
	{"CONNECT u@h:443 HTTP/1.1", errUserinfo},

	// RFC 9110, section 4.2.4.
	{"GET http://u@h/ HTTP/1.1", errUserinfo},
	{"GET http://u:p@h/ HTTP/1.1", errUserinfo},
	{"GET http://@h/ HTTP/1.1", errUserinfo},
	{"GET http://@/ HTTP/1.1", errUserinfo},
	{"GET http://h\\@i/ HTTP/1.1", errUserinfo},

	// RFC 9110, section 4.2.1, and RFC 3986, section 3.2.2.
	{"GET http:// HTTP/1.1", errHost},
	{"GET http:/// HTTP/1.1", errHost},
	{"GET http://?q HTTP/1.1", errHost},
	{"GET http://:80/ HTTP/1.1", errHost},
	{"GET https://: HTTP/1.1", errHost},
	{"GET http://h\\i/ HTTP/1.1", errHost},
	{"GET http://h|i/ HTTP/1.1", errHost},
	{"GET http://<h>/ HTTP/1.1", errHost},
	{"GET http://% HTTP/1.1", errHost},
	{"GET http://h%4/ HTTP/1.1", errHost},
	{"GET http://h%4g/ HTTP/1.1", errHost},
	{"GET http://h%g4/ HTTP/1.1", errHost},
	{"GET http://h[::1]/ HTTP/1.1", errHost},
	{"GET http://h]/ HTTP/1.1", errHost},
	{"GET http://[]/ HTTP/1.1", errHost},
	{"GET http://[::1 HTTP/1.1", errHost},
	{"GET http://[/]::1/ HTTP/1.1", errHost},
	{"GET http://[::1]h/ HTTP/1.1", errHost},
	{"GET http://[::1]]/ HTTP/1.1", errHost},
	{"GET http://[[::1]]/ HTTP/1.1", errHost},
	{"GET http://::1/ HTTP/1.1", errHost},
	{"GET http://[h]/ HTTP/1.1", errHost},
	{"GET http://[127.0.0.1]/ HTTP/1.1", errHost},
	{"GET http://[v1.a]/ HTTP/1.1", errHost},
	{"GET http://[fe80::1%eth0]/ HTTP/1.1", errHost},
	{"GET http://[fe80::1%25]/ HTTP/1.1", errHost},
	{"GET http://[fe80::1%25a%2Fb]/ HTTP/1.1", errHost},
	{"GET http://[fe80::1%25a:b]/ HTTP/1.1", errHost},
	{"GET http://[%25eth0]/ HTTP/1.1", errHost},
	{"GET http://" + strings.Repeat("a", 256) + "/ HTTP/1.1", errHost},
	{"GET http://[::1%25" + strings.Repeat("a", 255) + "]/ HTTP/1.1", errHost},

	// RFC 3986, section 3.2.3.
	{"GET http://h:0/ HTTP/1.1", errPort},
	{"GET http://h:00000/ HTTP/1.1", errPort},
	{"GET http://h:65536/ HTTP/1.1", errPort},
	{"GET http://h:99999/ HTTP/1.1", errPort},
	{"GET http://h:000080/ HTTP/1.1", errPort},
	{"GET http://h:18446744073709551696/ HTTP/1.1", errPort},
	{"GET http://h:+80/ HTTP/1.1", errPort},
	{"GET http://h:-80/ HTTP/1.1", errPort},
	{"GET http://h:8o/ HTTP/1.1", errPort},
	{"GET http://h:8_0/ HTTP/1.1", errPort},
	{"GET http://h:0x50/ HTTP/1.1", errPort},
	{"GET http://h:80:80/ HTTP/1.1", errPort},
	{"GET http://h:80[::1]/ HTTP/1.1", errPort},
	{"GET http://fe80::1/ HTTP/1.1", errPort},
	{"GET http://[::1]:0/ HTTP/1.1", errPort},
}

func TestParseRequestLineErrors(t *testing.T) {
	for _, tt := range requestLineErrors {
		t.Run(tt.line, func(t *testing.T) {
			r, err := parseRequestLine([]byte(tt.line))
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if r.method != nil || r.target != nil || r.host != nil {
				t.Errorf("refused, but returned %q", r.target)
			}
		})
	}
}

func TestRequestLineLongestHost(t *testing.T) {
	host := strings.Repeat("a", 255)
	r, err := parseRequestLine([]byte("CONNECT " + host + ":443 HTTP/1.1"))
	if err != nil || string(r.host) != host {
		t.Errorf("host %q, error %v", r.host, err)
	}
}

func TestValidAuthority(t *testing.T) {
	for authority, want := range map[string]bool{
		"":                   true,
		"h":                  true,
		"h:":                 true,
		"h:80":               true,
		"a_b.Example.COM:1":  true,
		"127.0.0.1:65535":    true,
		"[::1]":              true,
		"[::1]:":             true,
		"[::1]:8080":         true,
		"[fe80::1%25eth0]:1": true,
		":":                  false,
		":80":                false,
		"h:0":                false,
		"h:65536":            false,
		"h:000080":           false,
		"h:+1":               false,
		"h:80:80":            false,
		"u@h":                false,
		"h/":                 false,
		"h?":                 false,
		"h#":                 false,
		"h\\i":               false,
		"http://h":           false,
		" h":                 false,
		"h ":                 false,
		"h, i":               false,
		"h\t":                false,
		"h\r":                false,
		"h\n":                false,
		"h\x00":              false,
		"h\x7f":              false,
		"h\xff":              false,
		"b\xc3\xbccher":      false,
		"::1":                false,
		"[::1":               false,
		"::1]":               false,
		"[::1]80":            false,
		"[h]":                false,
		"[]":                 false,
		"[v1.a]":             false,
		"[::1%eth0]":         false,
	} {
		if got := validAuthority([]byte(authority)); got != want {
			t.Errorf("validAuthority(%q) = %v, want %v", authority, got, want)
		}
	}
}

func TestParseRequestLineAllocs(t *testing.T) {
	for _, s := range []string{
		"GET /index.html?q=1 HTTP/1.1",
		"GET http://www.example.com:8080/index.html?q=1 HTTP/1.1",
		"CONNECT www.example.com:443 HTTP/1.1",
		"CONNECT [2001:db8::192.0.2.1%25eth0]:443 HTTP/1.1",
		"OPTIONS * HTTP/1.1",
		"GET / HTTP/2.0",
	} {
		line := []byte(s)
		if n := testing.AllocsPerRun(100, func() { parseRequestLine(line) }); n != 0 {
			t.Errorf("%s: %v allocations, want none", s, n)
		}
	}
}

func TestAppendAllocs(t *testing.T) {
	r, err := parseRequestLine([]byte("GET http://[fe80::1%25eth0]:8080?q HTTP/1.1"))
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 64)
	n := testing.AllocsPerRun(100, func() {
		r.appendAuthority(buf)
		r.appendOriginForm(buf)
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// ipv6Tests are for TestValidIPv6 and seeds for FuzzValidIPv6; netip says what is right.
var ipv6Tests = []string{
	"", ":", "::", ":::", "::::", "1", "1:", ":1", "1::", "::1", "1::2", "1:::2", "1::2::3", "::1::", "1.2.3.4",
	"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:", ":2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:",
	"::2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "1:2:3::5:6:7:8", "1:2:3:4::5:6:7:8", "::1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8::",
	"abcd:EF01::", "00001::", "0001::", "fffff::", "g::", "-1::", "+1::", "0x1::", "1 ::", "1_0::",
	"::1.2.3.4", "::ffff:1.2.3.4", "1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:1.2.3.4", "1:2:3:4:5:6:7:1.2.3.4",
	"::2:3:4:5:6:1.2.3.4", "::1:2:3:4:5:6:1.2.3.4", "1.2.3.4::", "::1.2.3.4:5", "1:1.2.3.4::", "::1.2.3", "::1.2.3.4.5",
	"::1.2.3.256", "::1.2.3.04", "::1.2.3.00", "::0.0.0.0", "::1.2.3.", "::.1.2.3", "::1..2.3", "::1.2.3.a", "::1.2.3.+4",
	"::255.255.255.255", "::1.2.3.1000",
}

func TestValidIPv6(t *testing.T) {
	for _, s := range ipv6Tests {
		checkIPv6(t, s)
	}
}

func FuzzValidIPv6(f *testing.F) {
	for _, s := range ipv6Tests {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkIPv6(t, s) })
}

// checkIPv6 compares with net/netip; zones are cut off before validIPv6 is asked.
func checkIPv6(t *testing.T, s string) {
	t.Helper()
	addr, err := netip.ParseAddr(s)
	want := err == nil && addr.Is6() && addr.Zone() == ""
	if got := validIPv6([]byte(s)); got != want {
		t.Errorf("validIPv6(%q) = %v, want %v", s, got, want)
	}
}

// FuzzRequestLine compares with net/http: what is accepted here must mean the same there.
func FuzzRequestLine(f *testing.F) {
	for _, tt := range requestLineTests {
		f.Add([]byte(tt.line))
	}
	for _, tt := range requestLineErrors {
		f.Add([]byte(tt.line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := parseRequestLine(line)
		if err != nil {
			return
		}
		checkRequestLine(t, line, &r)
		if !acceptedOnlyHere(&r) {
			compareNetHTTP(t, line, &r)
		}
	})
}

// checkRequestLine checks what holds for every line that is accepted.
func checkRequestLine(t *testing.T, line []byte, r *requestLine) {
	for _, part := range [][]byte{r.method, r.target, r.host, r.portText, r.path} {
		if len(part) > 0 && !isSubslice(line, part) {
			t.Errorf("%q is not a part of the line", part)
		}
	}
	if len(r.method)+len(r.target)+len("  HTTP/1.1") != len(line) {
		t.Errorf("method %q and target %q are not the whole line", r.method, r.target)
	}
	authority, upstream := r.appendAuthority(nil), r.appendOriginForm(nil)
	if !isVisible(authority) || !validAuthority(authority) {
		t.Errorf("appendAuthority = %q", authority)
	}
	if !isVisible(upstream) || upstream[0] != '/' && string(upstream) != "*" {
		t.Errorf("appendOriginForm = %q", upstream)
	}
	checkHostPort(t, r)
}

func checkHostPort(t *testing.T, r *requestLine) {
	hostPort := r.hostPort()
	if r.form == originForm || r.form == asteriskForm {
		if hostPort != "" || len(r.appendAuthority(nil)) != 0 {
			t.Errorf("form %v has authority %q", r.form, hostPort)
		}
		return
	}
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || host == "" || port != strconv.Itoa(int(r.port)) || r.port == 0 || !isVisible([]byte(hostPort)) {
		t.Errorf("hostPort = %q (%v)", hostPort, err)
	}
}

// isSubslice reports whether part shares its memory with whole.
func isSubslice(whole, part []byte) bool {
	for i := range whole {
		if &whole[i] == &part[0] {
			return i+len(part) <= len(whole)
		}
	}
	return false
}

func isVisible(b []byte) bool {
	return !bytes.ContainsFunc(b, func(c rune) bool { return c < 0x21 || c > 0x7e })
}

var (
	badEscape   = regexp.MustCompile(`%([^0-9a-fA-F]|$|.[^0-9a-fA-F]|.$)`)
	asciiEscape = regexp.MustCompile(`%[0-7]`)
)

// acceptedOnlyHere reports whether r is of a class that is known to be refused by net/http:
//
//   - Paths (not queries) with a '%' that starts no percent-encoded byte: net/url can't decode them, but browsers
//     send them as typed and servers answer, so a proxy in the middle has to pass them.
//   - Registered names with a percent-encoded ASCII byte: RFC 3986, section 3.2.2, allows them. They are
//     harmless as nothing decodes them here. net/url takes %25 alone.
func acceptedOnlyHere(r *requestLine) bool {
	path, _, _ := bytes.Cut(r.path, []byte("?"))
	return badEscape.Match(path) || !isIPv6(r.host) && asciiEscape.Match(r.host)
}

// compareNetHTTP checks that net/http reads the same from line.
func compareNetHTTP(t *testing.T, line []byte, r *requestLine) {
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(string(line) + "\r\nHost: x\r\n\r\n")))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", line, err)
	}
	if req.Method != string(r.method) || req.RequestURI != string(r.target) || req.ProtoMajor != 1 {
		t.Errorf("net/http reads %q %q %q", req.Method, req.RequestURI, req.Proto)
	}
	if r.form == absoluteForm && req.URL.Scheme == "https" != r.https {
		t.Errorf("https = %v, but net/http reads %q", r.https, req.URL.Scheme)
	}
	if r.form == absoluteForm || r.form == authorityForm {
		compareHost(t, r, req.URL)
	}
}

func compareHost(t *testing.T, r *requestLine, u *url.URL) {
	host, _, err := net.SplitHostPort(r.hostPort())
	if err != nil {
		t.Fatal(err)
	}
	// net/url decodes registered names, and both of us decode zones.
	if !isIPv6(r.host) {
		if host, err = url.PathUnescape(host); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.EqualFold(host, u.Hostname()) || string(r.portText) != u.Port() {
		t.Errorf("host %q, port %q, but net/http reads %q", host, r.portText, u.Host)
	}
}
