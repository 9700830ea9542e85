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
	for name, test := range map[string]struct {
		bytes string
		want  Protocol
		at    int // how many bytes it takes to be sure; 0: all
	}{
		"GET":              {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", HTTP1, len("GET / HTTP/")},
		"HTTP/1.0":         {"GET / HTTP/1.0\r\n\r\n", HTTP1, len("GET / HTTP/")},
		"absolute-form":    {"POST http://h/p?q HTTP/1.1\r\n", HTTP1, len("POST http://h/p?q HTTP/")},
		"asterisk-form":    {"OPTIONS * HTTP/1.1\r\n", HTTP1, len("OPTIONS * HTTP/")},
		"CONNECT":          {"CONNECT h:1 HTTP/1.1\r\n", HTTP1, len("CONNECT h:1 HTTP/")},
		"extension method": {"M-SEARCH * HTTP/1.1\r\n", HTTP1, len("M-SEARCH * HTTP/")},
		"long method":      {strings.Repeat("M", 40) + " / HTTP/1.1\r\n", HTTP1, 40 + len(" / HTTP/")},
		"like the preface": {"PRI * HTTP/1.1\r\n", HTTP1, len("PRI * HTTP/1")},
		"long target":      {"GET /" + strings.Repeat("x", 5000) + " HTTP/1.1\r\n", HTTP1, len("GET / HTTP/") + 5000},
		"8-bit target":     {"GET /\xc3\xa4 HTTP/1.1\r\n", HTTP1, len("GET /xx HTTP/")},
		"8-bit, extension": {"FOO /\xc3\xa4 HTTP/1.1\r\n", HTTP1, len("FOO /xx HTTP/")},
		"NUL in target":    {"GET /\x00 HTTP/1.1\r\n", HTTP1, len("GET /x HTTP/")},
		"HTTP/0.9":         {"GET /\r\n", HTTP1, 7},
		"two spaces":       {"GET  / HTTP/1.1\r\n", HTTP1, len("GET  / HTTP/")},
		"tab":              {"GET\t/\tHTTP/1.1\r\n", HTTP1, len("GET / HTTP/")},
		"other blanks":     {"GET\x0b/\xa0\x85x\x1fHTTP/1.1\r\n", HTTP1, len("GET /xxx HTTP/")},
		"leading blanks":   {" \t\r\n\x1f\x01GET / HTTP/1.1\r\n", HTTP1, 6 + len("GET / HTTP/")},
		"lower case":       {"get / http/1.1\r\n", HTTP1, len("GET / HTTP/")},
		"no version":       {"GET /x\n", HTTP1, 7},
		"words in between": {"GET /a b c HTTP/1.1\r\n", HTTP1, len("GET /a b c HTTP/")},
		"no target":        {"GET HTTP/1.1\r\n", HTTP1, len("GET HTTP/")},
		"odd target":       {"GET x HTTP/1.1\r\n", HTTP1, len("GET x HTTP/")},
		"odd version":      {"GET / 1.1\r\n", HTTP1, len("GET / 1.1\r\n")},
		"CONNECT, 0.9":     {"CONNECT h:1\r\n", HTTP1, len("CONNECT h:1\r\n")},
		"HTTP/3":           {"GET / HTTP/3.0\r\n", HTTP1, len("GET / HTTP/")},
		"RTSP and HTTP":    {"GET / HTTP/1.1 RTSP/1.0\r\n", HTTP1, len("GET / HTTP/")},
		"behind 0x16":      {"\x16GET / HTTP/1.1\r\n", HTTP1, len("\x16GET / HTTP/")},
		"HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04", HTTP2, 24},
		"nearly HTTP/2":    {"PRI * HTTP/2.0\r\n\r\nSMTP", HTTP1, 21},
		"ClientHello":      {clientHello(t), TLS, 6},
		"empty records":    {"\x16\x03\x01\x00\x00\x16\x03\x01\x00\x00" + clientHello(t), TLS, 16},
		"a warning first":  {"\x15\x03\x01\x00\x02\x01\x5a" + clientHello(t), TLS, 13},
		"CCS first":        {"\x14\x03\x03\x00\x01\x01" + clientHello(t), TLS, 12},
		"SSL 2.0's form":   {"\x80\x1f\x01\x03\x03\x00\x06\x00\x00\x00\x10\x00\xc0\x2f\x00\x00\x2f", TLS, 11},
		"SSL 2.0":          {"\x80\x1f\x01\x00\x02\x00\x06\x00\x00\x00\x10", Other, 4},
		"other lengths":    {"\x80\x20\x01\x03\x03\x00\x06\x00\x00\x00\x10", Other, 11},
		"Telnet":           {"\xff\xfd\x01\xff\xfb\x1f", Other, 1},
		"odd TLS version":  {"\x16\x02\x00\x00\x40\x01", TLS, 6},
		"TLS, no hello":    {"\x16\x03\x03\x00\x40\x02\x00\x00\x2c\x03\x03\x81", Other, 6},
		"0x16":             {"\x16\x16\x16\xff", Other, 4},
		"Redis":            {"*1\r\n$4\r\nPING\r\n", Other, 4},
		"Redis, inline":    {"PING\r\n", Other, 6},
		"Redis, GET":       {"GET key\r\n", Other, 9},
		"Redis, SET":       {"SET key value\r\n", Other, len("SET key value\r\n")},
		"SSH":              {"SSH-2.0-OpenSSH_9.6\r\n", Other, len("SSH-2.0-OpenSSH_9.6\r\n")},
		"SMTP":             {"EHLO client.test\r\n", Other, len("EHLO client.test\r\n")},
		"GET by RTSP":      {"GET /x RTSP/1.0\r\n", HTTP1, len("GET /x RTSP/1.0\r\n")},
		"RTSP, DESCRIBE":   {"DESCRIBE rtsp://h/s RTSP/1.0\r\n", Other, len("DESCRIBE rtsp://h/s RTSP/1.0\r\n")},
		"RTSP":             {"OPTIONS rtsp://h/s RTSP/1.0\r\n", Other, len("OPTIONS rtsp://h/s RTSP/1.0\r\n")},
		"Icecast":          {"SOURCE /live ICE/1.0\r\n", Other, len("SOURCE /live ICE/1.0\r\n")},
		"SIP":              {"INVITE sip:a@h SIP/2.0\r\n", Other, len("INVITE sip:a@h SIP/2.0\r\n")},
		"Git":              {"0032git-upload-pack /project.git\x00host=h\x00", Other, len("0032git-upload-pack /project.git\x00")},
		"binary STORE":     {"STORE \x81\x00\x01", Other, 7},
		"MQTT":             {"\x10\x25\x00\x04MQTT\x04", Other, 3},
		"PostgreSQL":       {"\x00\x00\x00\x08\x04\xd2\x16\x2f", Other, 1},
		"random":           {"\xf3\x07\x9c\x16\x03", Other, 1},
		"response":         {"HTTP/1.1 200 OK\r\n", Other, len("HTTP/1.1 200 OK\r\n")},
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

// FuzzClassify: once it is clear what some bytes are, more bytes change nothing.
func FuzzClassify(f *testing.F) {
	for _, seed := range []string{"GET / HTTP/1.1\r\n", "FOO a\x80://b\x00c HTTP/1.1 RTSP/1.0\n", "CONNECT h:1\xff\n", "\x16\x03\x01\x00\x00\x15\x03\x01\x00\x02\x01\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var was Protocol
		certain := false
		for n := range len(b) + 1 {
			proto, sure := classify(b[:n])
			if certain && (!sure || proto != was) || sure && proto == Unknown {
				t.Fatalf("%q is %v, %q is %v (%v)", b[:n-1], was, b[:n], proto, sure)
			}
			was, certain = proto, sure
			if end := classifyEnd(b[:n]); sure && end != proto || end == Unknown {
				t.Fatalf("%q is %v, but %v at its end", b[:n], proto, end)
			}
		}
	})
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
