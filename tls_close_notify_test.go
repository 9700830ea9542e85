package mitm_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// receivedConn keeps what was received.
type receivedConn struct {
	net.Conn
	received []byte
}

func (c *receivedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.received = append(c.received, b[:n]...)
	return n, err
}

// endsWithAlert reports whether the last record is an alert, of which TLS 1.2 shows the type.
func (c *receivedConn) endsWithAlert() bool {
	last := byte(0)
	for b := c.received; len(b) >= 5; {
		last = b[0]
		b = b[min(len(b), 5+int(b[3])<<8+int(b[4])):]
	}
	return last == 21
}

// ends are ways of what is inside TLS to end as it should.
var ends = map[string]struct {
	request  string
	response string // of the origin, which closes then
	change   func(p *mitm.Proxy)
	want     string // in what the client gets
}{
	"close-delimited":            {"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\nall", nil, "all"},
	"close-delimited, HTTP/1.0":  {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nall", nil, "all"},
	"chunked to HTTP/1.0":        {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n0\r\n\r\n", nil, "all"},
	"length and close":           {"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: close\r\n\r\n", ok200, nil, "ok"},
	"content that is not read":   {"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 10\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nall", nil, "all"},
	"bad request":                {"GET / HTTP/1.1\r\nHost : site.test\r\n\r\n", "", nil, "400 Bad Request"},
	"bad response":               {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "nothing", nil, "502 Bad Gateway"},
	"upgrade":                    {"GET / HTTP/1.1\r\nHost: site.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nall", nil, "all"},
	"other protocol":             {"\x00 sixteen bytes or more", "all", nil, "all"},
	"unknown length of a hook's": {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "", func(p *mitm.Proxy) { p.Hooks = append(p.Hooks, mitm.OnRequest(unknownLength)) }, "all"},
	"Transport": {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "", func(p *mitm.Proxy) {
		p.Transport = roundTripper(func(req *http.Request) (*http.Response, error) { return unknownLength(req) })
	}, "all"},
	"refused by a hook": {"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n", "", func(p *mitm.Proxy) {
		p.Hooks = append(p.Hooks, mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, mitm.ErrRejected }))
	}, "403 Forbidden"},
}

func unknownLength(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, ContentLength: -1, Body: io.NopCloser(strings.NewReader("all"))}, nil
}

// Whatever ends inside TLS as it should, by the end of its connection, ends with a close_notify.
func TestR27_EveryEnd(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			for _, hooks := range [][]mitm.Hook{nil, {noChange()}} {
				eachEntry(t, func(t *testing.T, e entry) {
					s := newServedSite(t, e, func(c *tls.Conn) {
						answerTLS(c, end.response)
						c.Close()
					})
					s.p.Hooks = hooks
					if end.change != nil {
						end.change(s.p)
					}
					conn := &receivedConn{Conn: s.e.open(t, start(t, s.p), "").Conn}
					c := tls.Client(conn, only(s.trusting(), tls.VersionTLS12))
					io.WriteString(c, end.request)
					got, err := io.ReadAll(c)
					if err != nil || !strings.Contains(string(got), end.want) || !conn.endsWithAlert() {
						t.Errorf("%d hooks: got %q, %v, a close_notify: %v", len(hooks), got, err, conn.endsWithAlert())
					}
				})
			}
		})
	}
}
