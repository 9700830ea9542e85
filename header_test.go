package mitm

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
)

func TestHeadEnd(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int
	}{
		{"", 0},
		{"\n", 0},
		{"\r\n", 0},
		{"\r\n\r\n", 4},
		{"a\r\n\r\n", 5},
		{"a\r\n\r\nmore\r\n\r\n", 5},
		{"a\n\n", 3},
		{"a\r\n\n", 4},
		{"a\n\r\n", 4},
		{"a\r\n\r", 0},
		{"a\r\r\n", 0},
		{"a\r\n\r\r\n", 0},
		{"a\r\nb: c\r\n", 0},
		{"a\r\nb: c\r\n\r\n", 11},
	} {
		if got := headEnd([]byte(tt.in), 0); got != tt.want {
			t.Errorf("headEnd(%q) = %d, want %d", tt.in, got, tt.want)
		}
		// However the bytes come, the end is seen with the byte that completes it.
		for n, scanned := 0, 0; n <= len(tt.in); n++ {
			want := 0
			if tt.want > 0 && n >= tt.want {
				want = tt.want
			}
			if got := headEnd([]byte(tt.in[:n]), scanned); got != want {
				t.Errorf("headEnd(%q, %d) = %d, want %d", tt.in[:n], scanned, got, want)
			}
			if want > 0 {
				break
			}
			scanned = n
		}
	}
}

func TestParseHead(t *testing.T) {
	text := "start line\r\nA: b\r\nb:\r\nC:\t d e \t\r\nHOST:x\nSet-Cookie: \x80\xff\r\n\r\n"
	var h head
	if err := h.parse([]byte(text), false, 5); err != nil {
		t.Fatal(err)
	}
	if string(h.start) != "start line" {
		t.Errorf("start %q", h.start)
	}
	var got []string
	for _, f := range h.fields {
		got = append(got, string(f.line), string(f.name), string(f.value))
	}
	want := []string{
		"A: b", "A", "b", "b:", "b", "", "C:\t d e \t", "C", "d e", "HOST:x", "HOST", "x",
		"Set-Cookie: \x80\xff", "Set-Cookie", "\x80\xff",
	}
	if !slices.Equal(got, want) {
		t.Errorf("fields %q, want %q", got, want)
	}
	if h.fields[3].kind != hostField || h.fields[0].kind != endToEnd {
		t.Errorf("kinds %v, %v", h.fields[3].kind, h.fields[0].kind)
	}
}

func TestParseHeadErrors(t *testing.T) {
	for _, tt := range []struct {
		fields string
		want   error
	}{
		{"A: 1\r\nB: 2\r\nC: 3\r\n", errTooManyFields},
		{"A : 1\r\n", errFieldSpace},
		{"A\t: 1\r\n", errFieldSpace},
		{"A B: 1\r\n", errFieldName},
		{": 1\r\n", errFieldName},
		{" : 1\r\n", errFieldsFirst},
		{"A\x00: 1\r\n", errFieldName},
		{"A\x80: 1\r\n", errFieldName},
		{"\"A\": 1\r\n", errFieldName},
		{"A(: 1\r\n", errFieldName},
		{"A\r\n", errFieldColon},
		{" A: 1\r\n", errFieldsFirst},
		{"\tA: 1\r\n", errFieldsFirst},
		{"A: 1\r\n 2\r\n", errFieldFold},
		{"A: 1\r\n\t2\r\n", errFieldFold},
		{"A: 1\r\n \r\n", errFieldFold},
		{"A: 1\x00\r\n", errFieldValue},
		{"A: \x01\r\n", errFieldValue},
		{"A: \x0b\r\n", errFieldValue},
		{"A: \x1b[1m\r\n", errFieldValue},
		{"A: \x7f\r\n", errFieldValue},
		{"A: 1\r2\r\n", errBareCR},
		{"A: 1\r\r\n", errBareCR},
		{"\rA: 1\r\n", errBareCR},
	} {
		var h head
		err := h.parse([]byte("GET / HTTP/1.1\r\n"+tt.fields+"\r\n"), false, 2)
		if !errors.Is(err, tt.want) {
			t.Errorf("%q: error %v, want %v", tt.fields, err, tt.want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for length, list := range knownFields {
		for _, known := range list {
			if len(known.name) != length {
				t.Errorf("%s is not %d bytes long", known.name, length)
			}
			for _, name := range []string{known.name, strings.ToUpper(known.name), textproto.CanonicalMIMEHeaderKey(known.name)} {
				if got := kindOf([]byte(name)); got != known.kind {
					t.Errorf("kindOf(%q) = %v, want %v", name, got, known.kind)
				}
			}
			if got := kindOf([]byte(known.name + "x")); got != endToEnd {
				t.Errorf("kindOf(%q) = %v", known.name+"x", got)
			}
		}
	}
	// A byte that differs from a letter by the bit of its case is another byte.
	for _, name := range []string{"\x14e", "hos\x14", "content\rlength", "transfer\rencoding"} {
		if got := kindOf([]byte(name)); got != endToEnd {
			t.Errorf("kindOf(%q) = %v", name, got)
		}
	}
}

func TestTokens(t *testing.T) {
	for list, want := range map[string][]string{
		"":                  nil,
		" , ,\t,":           nil,
		"a":                 {"a"},
		"a,b":               {"a", "b"},
		" a\t, b c ,,d;q=1": {"a", "b c", "d;q=1"},
	} {
		var got []string
		tokens([]byte(list), func(token []byte) bool {
			got = append(got, string(token))
			return true
		})
		if !slices.Equal(got, want) {
			t.Errorf("tokens(%q) = %q, want %q", list, got, want)
		}
		for _, token := range want {
			if !hasToken([]byte(list), token) {
				t.Errorf("%q has no %q", list, token)
			}
		}
		if hasToken([]byte(list), "x") {
			t.Errorf("%q has an x", list)
		}
	}
}

func TestAllowedInTrailer(t *testing.T) {
	for name, want := range map[string]bool{
		"Checksum": true, "Server-Timing": true, "Date": true, "x": true,
		"Content-Length": false, "transfer-encoding": false, "Host": false, "Connection": false,
		"Authorization": false, "Proxy-Authorization": false, "WWW-Authenticate": false,
		"Proxy-Authenticate": false, "Set-Cookie": false, "COOKIE": false, "Trailer": false, "TE": false,
		"Upgrade": false, "Content-Type": false, "Content-Encoding": false, "Content-Range": false,
		"Max-Forwards": false, "Expect": false, "Keep-Alive": false, "Proxy-Connection": false,
	} {
		f, err := parseField([]byte(name + ": 1"))
		if err != nil {
			t.Fatal(err)
		}
		if got := allowedInTrailer(&f); got != want {
			t.Errorf("allowedInTrailer(%s) = %v, want %v", name, got, want)
		}
	}
}

// FuzzHead compares with net/http: a head that is accepted here must have the same fields
// there, in the same order for each name, and the same framing.
func FuzzHead(f *testing.F) {
	for _, fields := range []string{
		"Host: x\r\n", "Host: x\nA: b\n", "Host: x\r\nA:\t b \r\na: c\r\n", "Host: x\r\nContent-Length: 5\r\n",
		"Host: x\r\nTransfer-Encoding: chunked\r\n", "Host: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n",
		"Host: x\r\nContent-Length: 1, 1\r\n", "Host: x\r\nTransfer-Encoding: chunked, chunked\r\n",
		"Host: x\r\nTransfer-Encoding:\r\nTransfer-Encoding: chunked\r\n", "Host: x\r\nA: \x80\r\n",
		"Host: x\r\nConnection: close, A\r\nA: b\r\n", "Host: x\r\nA : b\r\n", "Host: x\r\nA: b\r\n c\r\n", "Host: x\r\nA: b\rc\r\n",
		"Host: x\r\nContent-Length: +5\r\n", "Host: x\r\nTrailer: A\r\nTransfer-Encoding: Chunked\r\n",
	} {
		f.Add([]byte(fields))
	}
	f.Fuzz(func(t *testing.T, fields []byte) {
		text := append(append([]byte("POST / HTTP/1.1\r\n"), fields...), "\r\n"...)
		n := headEnd(text, 0)
		if n == 0 {
			return
		}
		text = text[:n]
		before := bytes.Clone(text)
		var h head
		if err := h.parse(text, false, 256); err != nil {
			return
		}
		if !bytes.Equal(text, before) {
			t.Fatalf("parse changed %q to %q", before, text)
		}
		var c control
		if c.read(h.fields) != nil || c.request(1) != nil || c.checkHost(1) != nil {
			return
		}
		compareHead(t, &h, &c, text)
		checkRewritten(t, &h, &c)
	})
}

// compareHead reads text by net/http too.
func compareHead(t *testing.T, h *head, c *control, text []byte) {
	if onlyHere(h) {
		return
	}
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(text)))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", text, err)
	}
	want := http.Header{}
	for i := range h.fields {
		switch f := &h.fields[i]; f.kind {
		case hostField, transferEncodingField, trailerField, contentLengthField, connectionField:
		default:
			want.Add(string(f.name), string(f.value))
		}
	}
	for _, own := range []string{"Connection", "Content-Length", "Trailer"} {
		req.Header.Del(own)
	}
	for name := range req.Header {
		if !slices.Equal(req.Header[name], want[name]) {
			t.Errorf("%q: net/http reads %s as %q, not %q", text, name, req.Header[name], want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("%q: net/http does not see %q", text, want)
	}
	if req.ContentLength != c.framing.contentLength() || req.Host != string(c.host) {
		t.Errorf("%q: length %d, host %q; net/http reads %d, %q", text, c.length, c.host, req.ContentLength, req.Host)
	}
}

// onlyHere reports whether net/http is known to refuse h or to read it by rules of its own: lists
// in framing fields, which leave here as one value, fields forbidden in Trailer, and Pragma,
// for which it adds a Cache-Control.
func onlyHere(h *head) bool {
	for i := range h.fields {
		f := &h.fields[i]
		switch {
		case f.kind == contentLengthField && bytes.IndexByte(f.value, ',') >= 0,
			f.kind == transferEncodingField && len(f.value) != len("chunked"),
			f.kind == trailerField, equalFold(f.name, "pragma"),
			bytes.IndexByte(f.value, '%') >= 0 && f.kind == hostField:
			return true
		}
	}
	return false
}

// checkRewritten reads what would be sent on and expects the same framing, written plainly.
func checkRewritten(t *testing.T, h *head, c *control) {
	w := rewrite{fields: h.fields, control: c, framing: c.framing, minor: 1, keepHost: true}
	out := w.appendTo([]byte("POST / HTTP/1.1\r\n"))
	req, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
	if err != nil && !onlyHere(h) {
		t.Fatalf("net/http refuses the rewritten %q: %v", out, err)
	}
	if err == nil && req.ContentLength != c.framing.contentLength() {
		t.Errorf("rewritten %q: net/http reads length %d, not %d", out, req.ContentLength, c.framing.contentLength())
	}
	var sent head
	if err := sent.parse(out, false, 300); err != nil {
		t.Fatalf("rewritten %q: %v", out, err)
	}
	var again control
	if err := cmp.Or(again.read(sent.fields), again.request(1), again.checkHost(1)); err != nil || again.framing != c.framing {
		t.Errorf("rewritten %q: framing %v (%v), not %v", out, again.framing, err, c.framing)
	}
}
