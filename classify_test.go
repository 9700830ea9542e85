package mitm

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
)

// Whatever part of a protocol's beginning has arrived, classify either waits for more or
// is right, and once it is sure it stays so.
func TestClassifyPrefixes(t *testing.T) {
	t.Parallel()
	const method32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_.!~0"
	for name, test := range map[string]struct {
		bytes string
		want  Protocol
		at    int // how many bytes it takes to be sure; 0: all
	}{
		"GET":              {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", HTTP1, len("GET / HTTP/1.")},
		"HTTP/1.0":         {"GET / HTTP/1.0\r\n\r\n", HTTP1, len("GET / HTTP/1.")},
		"absolute-form":    {"POST http://h/p?q HTTP/1.1\r\n", HTTP1, len("POST http://h/p?q HTTP/1.")},
		"asterisk-form":    {"OPTIONS * HTTP/1.1\r\n", HTTP1, len("OPTIONS * HTTP/1.")},
		"CONNECT":          {"CONNECT h:1 HTTP/1.1\r\n", HTTP1, len("CONNECT h:1 HTTP/1.")},
		"extension method": {"M-SEARCH * HTTP/1.1\r\n", HTTP1, len("M-SEARCH * HTTP/1.")},
		"method of 32":     {method32 + " / HTTP/1.1\r\n", HTTP1, len(method32 + " / HTTP/1.")},
		"like the preface": {"PRI * HTTP/1.1\r\n", HTTP1, len("PRI * HTTP/1.")},
		"long target":      {"GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\n", HTTP1, len("GET / HTTP/1.") + 5000},
		"8-bit target":     {"GET /\xc3\xa4 HTTP/1.1\r\n", HTTP1, len("GET /xx HTTP/1.")}, // to be refused
		"HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04", HTTP2, 24},
		"ClientHello":      {clientHello(t), TLS, 6},
		"TLS, no hello":    {"\x16\x03\x03\x00\x40\x02\x00\x00", Other, 6},
		"0x16":             {"\x16\x16\x16", Other, 2},
		"Redis":            {"*1\r\n$4\r\nPING\r\n", Other, 3},
		"Redis, inline":    {"PING\r\n", Other, 5},
		"Redis, GET":       {"GET key\r\n", Other, 8},
		"Redis, SET":       {"SET key value\r\n", Other, len("SET key v")},
		"SSH":              {"SSH-2.0-OpenSSH_9.6\r\n", Other, len("SSH-2.0-OpenSSH_9.6\r")},
		"SMTP":             {"EHLO client.test\r\n", Other, len("EHLO client.test\r")},
		"PostgreSQL":       {"\x00\x00\x00\x08\x04\xd2\x16\x2f", Other, 1},
		"random":           {"\xf3\x07\x9c\x16\x03", Other, 1},
		"token of 40":      {strings.Repeat("t", 40), Other, maxMethod + 1},
		"method of 33":     {method32 + "X / HTTP/1.1\r\n", Other, maxMethod + 1},
		"HTTP/0.9":         {"GET /\r\n", Other, 6},
		"two spaces":       {"GET  / HTTP/1.1\r\n", Other, 5},
		"lower case":       {"GET / http/1.1\r\n", Other, 7},
		"HTTP/3":           {"GET / HTTP/3.0\r\n", Other, len("GET / HTTP/3")},
		"response":         {"HTTP/1.1 200 OK\r\n", Other, len("HTTP/")},
	} {
		t.Run(name, func(t *testing.T) {
			if proto, sure := classify(nil); proto != Unknown || sure {
				t.Errorf("nothing: %v, %v", proto, sure)
			}
			first := 0
			for n := 1; n <= len(test.bytes); n++ {
				proto, sure := classify([]byte(test.bytes[:n]))
				switch {
				case sure && proto != test.want:
					t.Fatalf("%q is %v for certain, want %v", test.bytes[:n], proto, test.want)
				case sure && first == 0:
					first = n
				case !sure && first > 0:
					t.Fatalf("%q is not certain any more", test.bytes[:n])
				}
			}
			if first != test.at {
				t.Errorf("certain after %d bytes, want %d", first, test.at)
			}
		})
	}
}

// clientHello returns the first record of a real handshake.
func clientHello(t *testing.T) string {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go tls.Client(a, &tls.Config{ServerName: "origin.test"}).Handshake()
	buf := make([]byte, 4096)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}
