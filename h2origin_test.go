package mitm_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
	"golang.org/x/net/http2/hpack"
)

// eachVersion runs f without hooks and with one, for an origin of either version of HTTP.
func eachVersion(t *testing.T, f func(t *testing.T, p *mitm.Proxy, version int)) {
	t.Helper()
	for version := 1; version <= 2; version++ {
		t.Run(fmt.Sprint("HTTP", version), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) { f(t, p, version) })
		})
	}
}

// gotRequest is a request as an origin got it, in either version.
type gotRequest struct {
	method, path, host string
	fields             []hpack.HeaderField // names in lower case, without the host
	content            string
	trailer            []hpack.HeaderField
	cut                bool // it never came to an end
}

// reporting is an origin that speaks HTTP/1 or HTTP/2, reports every request and answers
// it with "ok".
func reporting(t *testing.T, version int) (addr string, roots *x509.CertPool, seen chan gotRequest) {
	seen = make(chan gotRequest, 1024)
	if version == 1 {
		addr, roots = h1Origin(t, func(c *peer) {
			for c.report(seen) {
				c.send(ok200)
			}
		})
	} else {
		addr, roots = h2Origin(t, func(c *h2peer) {
			c.serveAll(seen)
		})
	}
	return addr, roots, seen
}

// report reads one request and reports it.
func (p *peer) report(seen chan gotRequest) bool {
	head, err := p.tryHead()
	if err != nil {
		return false
	}
	line := strings.SplitN(head[:strings.Index(head, "\r\n")], " ", 2)
	got := gotRequest{method: line[0], path: strings.TrimSuffix(line[1], " HTTP/1.1")}
	for _, f := range parseFields(head[strings.Index(head, "\r\n")+2:]) {
		if f.Name == "host" {
			got.host += f.Value
		} else {
			got.fields = append(got.fields, f)
		}
	}
	err = p.readContent(&got)
	got.cut = err != nil
	seen <- got
	return err == nil
}

// readContent reads the content of a request and its trailers.
func (p *peer) readContent(got *gotRequest) error {
	if valueOf(got.fields, "transfer-encoding") == "" {
		n := 0
		fmt.Sscan(valueOf(got.fields, "content-length"), &n)
		b := make([]byte, n)
		k, err := io.ReadFull(p.r, b)
		got.content = string(b[:k])
		return err
	}
	for {
		line, err := p.r.ReadString('\n')
		n := 0
		if fmt.Sscanf(line, "%x", &n); err != nil || n == 0 {
			if err == nil {
				line, err = p.tryHead()
				got.trailer = parseFields(line)
			}
			return err
		}
		b := make([]byte, n+2)
		k, err := io.ReadFull(p.r, b)
		if got.content += string(b[:min(k, n)]); err != nil {
			return err
		}
	}
}

func parseFields(lines string) (fields []hpack.HeaderField) {
	for line := range strings.SplitSeq(lines, "\r\n") {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields = append(fields, hpack.HeaderField{Name: strings.ToLower(name), Value: strings.Trim(value, " \t")})
		}
	}
	return fields
}

// report reads requests until the connection ends, and calls done for those that are
// complete.
func (p *h2peer) report(seen chan gotRequest, done func(*h2stream)) {
	var open []*h2stream
	for more := true; more; {
		more = p.step()
		open, p.fresh = append(open, p.fresh...), nil
		open = slices.DeleteFunc(open, func(s *h2stream) bool {
			if !s.over() && more {
				return false
			}
			if seen <- s.request(); s.ended {
				done(s)
			}
			return true
		})
	}
}

// request makes a request of what has come.
func (s *h2stream) request() gotRequest {
	got := gotRequest{content: s.body.String(), trailer: s.trailer, cut: !s.ended}
	for _, f := range s.head {
		switch f.Name {
		case ":method":
			got.method += f.Value
		case ":path":
			got.path += f.Value
		case ":authority", "host":
			got.host += f.Value
		case ":scheme":
		default:
			got.fields = append(got.fields, f)
		}
	}
	return got
}

// receive returns the next value of a channel, or fails the test.
func receive[T any](t testing.TB, c chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("no %T comes", v)
	}
	return v
}

// wantOnly fails the test unless the origin got, up to a last request for /last that it
// must have got, nothing else that was complete.
func wantOnly(t *testing.T, seen chan gotRequest) {
	t.Helper()
	for {
		got := receive(t, seen)
		if got.path == "/last" {
			return
		}
		if !got.cut {
			t.Errorf("the origin got %+v", got)
		}
	}
}

// handlerOrigin is an origin of net/http's for example.com.
func handlerOrigin(t testing.TB, version int, handler http.HandlerFunc) (addr string, roots *x509.CertPool) {
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = version == 2
	s.TLS = &tls.Config{NextProtos: []string{}} // HTTP/1 to whoever comes
	if s.EnableHTTP2 {
		s.TLS = nil
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots = x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), roots
}
