package mitm

import (
	"cmp"
	"errors"
	"strings"
	"testing"
)

// parsedFields returns the fields of lines, which end in \n.
func parsedFields(t *testing.T, lines string) []field {
	t.Helper()
	fields, err := parseFields(nil, []byte(lines+"\n"), 100)
	if err != nil {
		t.Fatalf("%q: %v", lines, err)
	}
	return fields
}

func TestRequestFraming(t *testing.T) {
	length := func(n int64) framing { return framing{kind: knownLength, length: n} }
	for _, tt := range []struct {
		fields string
		want   framing
		err    error
	}{
		{"", framing{}, nil},
		{"A: b\n", framing{}, nil},
		{"Content-Length: 0\n", length(0), nil},
		{"Content-Length: 5\n", length(5), nil},
		{"Content-Length: 0005\n", length(5), nil},
		{"Content-Length: 5, 5\n", length(5), nil},
		{"Content-Length: 5\ncontent-length: 5\n", length(5), nil},
		{"Content-Length: 999999999999999999\n", length(999999999999999999), nil},
		{"Content-Length:\n", framing{}, errLength},
		{"Content-Length: 5\nContent-Length:\n", framing{}, errLength},
		{"Content-Length: +5\n", framing{}, errLength},
		{"Content-Length: -5\n", framing{}, errLength},
		{"Content-Length: 5 5\n", framing{}, errLength},
		{"Content-Length: 5;x\n", framing{}, errLength},
		{"Content-Length: 0x5\n", framing{}, errLength},
		{"Content-Length: 5_0\n", framing{}, errLength},
		{"Content-Length: 5.0\n", framing{}, errLength},
		{"Content-Length: \"5\"\n", framing{}, errLength},
		{"Content-Length: \xb2\n", framing{}, errLength},
		{"Content-Length: 9223372036854775808\n", framing{}, errLength},
		{"Content-Length: 18446744073709551617\n", framing{}, errLength},
		{"Content-Length: 5, 6\n", framing{}, errLength},
		{"Content-Length: 5\nContent-Length: 6\n", framing{}, errLength},
		{"Transfer-Encoding: chunked\n", framing{kind: chunked}, nil},
		{"transfer-encoding:CHUNKED\n", framing{kind: chunked}, nil},
		{"Transfer-Encoding: , chunked\n", framing{kind: chunked}, nil},
		{"Transfer-Encoding:\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding:\nTransfer-Encoding: chunked\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: chunked\nTransfer-Encoding:\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: chunked, chunked\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: chunked, gzip\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: chunked\nTransfer-Encoding: identity\n", framing{}, errNotLastChunked},
		{"Transfer-Encoding: gzip, chunked\n", framing{}, errCoding},
		{"Transfer-Encoding: gzip\nTransfer-Encoding: chunked\n", framing{}, errCoding},
		{"Transfer-Encoding: identity\n", framing{}, errCoding},
		{"Transfer-Encoding: xchunked\n", framing{}, errCoding},
		{"Transfer-Encoding: chunked;q=1\n", framing{}, errCoding},
		{"Transfer-Encoding: \"chunked\"\n", framing{}, errCoding},
		{"Transfer-Encoding: chunked\x80\n", framing{}, errCoding},
		{"Transfer-Encoding: chunked\nContent-Length: 5\n", framing{}, errLengthAndTE},
		{"Content-Length: 5\nTransfer-Encoding: chunked\n", framing{}, errLengthAndTE},
		{"Content-Length: 0\nTransfer-Encoding: chunked\n", framing{}, errLengthAndTE},
	} {
		var c control
		err := c.read(parsedFields(t, tt.fields))
		if err == nil {
			err = c.request(1)
		}
		if !errors.Is(err, tt.err) || err == nil && c.framing != tt.want {
			t.Errorf("%q: %v, error %v; want %v, %v", tt.fields, c.framing, err, tt.want, tt.err)
		}
	}
}

func TestRequestFramingHTTP10(t *testing.T) {
	var c control
	if err := cmp.Or(c.read(parsedFields(t, "Transfer-Encoding: chunked\n")), c.request(0)); err != errTEInHTTP10 {
		t.Errorf("error %v, want %v", err, errTEInHTTP10)
	}
	if err := cmp.Or(c.read(parsedFields(t, "Content-Length: 5\n")), c.request(0)); err != nil || c.length != 5 {
		t.Errorf("length %d, error %v", c.length, err)
	}
}

func TestControl(t *testing.T) {
	for _, tt := range []struct {
		fields string
		want   func(c *control) bool
	}{
		{"Connection: close\n", func(c *control) bool { return c.close && len(c.names) == 0 }},
		{"Connection: a\nConnection: CLOSE\n", func(c *control) bool { return c.close && string(c.names) == "a," }},
		{"Connection:\nConnection: a ,\tb\n", func(c *control) bool { return !c.close && string(c.names) == "a,b," }},
		{"Connection: closed, not-close\n", func(c *control) bool { return !c.close }},
		{"Proxy-Connection: close\n", func(c *control) bool { return c.close }},
		{"Proxy-Connection: a\n", func(c *control) bool { return len(c.names) == 0 }},
		{"Connection: upgrade\nUpgrade: websocket\n", func(c *control) bool { return c.upgrade }},
		{"Upgrade: websocket\nConnection: keep-alive, Upgrade\n", func(c *control) bool { return c.upgrade }},
		{"Connection: upgrade\nUpgrade: h2c\nUpgrade: websocket\n", func(c *control) bool { return c.upgrade }},
		{"Connection: upgrade\nUpgrade: h2c, HTTP/2.0, TLS/1.2\n", func(c *control) bool { return !c.upgrade }},
		{"Connection: upgrade\n", func(c *control) bool { return !c.upgrade }},
		{"Upgrade: websocket\n", func(c *control) bool { return !c.upgrade }},
		{"TE: trailers\n", func(c *control) bool { return c.trailers }},
		{"TE: gzip;q=0.5, Trailers\n", func(c *control) bool { return c.trailers }},
		{"TE: gzip\n", func(c *control) bool { return !c.trailers }},
		{"Expect: 100-Continue\n", func(c *control) bool { return c.expectContinue }},
		{"Max-Forwards: 3\n", func(c *control) bool { return c.maxForwards == 3 && !c.badForwards }},
		{"Max-Forwards: 99999999999\n", func(c *control) bool { return c.maxForwards > 1000 && !c.badForwards }},
		{"Max-Forwards: 3\nMax-Forwards: 3\n", func(c *control) bool { return c.badForwards }},
		{"Max-Forwards: -1\n", func(c *control) bool { return c.badForwards }},
		{"A: b\n", func(c *control) bool { return c.maxForwards == -1 && !c.badForwards && !c.hasDate && c.hosts == 0 }},
		{"Date: x\n", func(c *control) bool { return c.hasDate }},
		{"Host: a\nhost: b\n", func(c *control) bool { return c.hosts == 2 }},
	} {
		c := control{close: true, names: []byte("x,"), upgrade: true, hasDate: true} // read starts anew
		if err := c.read(parsedFields(t, tt.fields)); err != nil || !tt.want(&c) {
			t.Errorf("%q: %+v, error %v", tt.fields, c, err)
		}
	}
}

func TestNamed(t *testing.T) {
	all := parsedFields(t, "Connection: host, content-length, transfer-encoding, TE, upgrade, connection, A\n"+
		"connection: b-C\nHost: x\nContent-Length: 5\nTransfer-Encoding: chunked\nTE: x\nUpgrade: x\na: 1\nB-c: 1\nb: 1\n")
	var c control
	if err := c.read(all); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range all {
		if named(c.names, &all[i]) {
			got = append(got, string(all[i].name))
		}
	}
	if strings.Join(got, " ") != "a B-c" {
		t.Errorf("named: %q", got)
	}
}

func TestParseDigits(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "7": 7, "007": 7, "123456789012345678": 123456789012345678,
		"": -1, "1234567890123456789": -1, "+1": -1, "-1": -1, " 1": -1, "1 ": -1, "1a": -1, "\xb9": -1,
	} {
		n, ok := parseDigits([]byte(text))
		if ok != (want >= 0) || ok && n != want {
			t.Errorf("parseDigits(%q) = %d, %v", text, n, ok)
		}
	}
}
