package mitm_test

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/mitm"
)

// What comes behind a response inside TLS is no response either, whether it is in a record
// of its own or only begins one.
func TestR22_SurplusInTLS(t *testing.T) {
	for name, surplus := range map[string]func(record []byte) []byte{
		"whole record": func(record []byte) []byte { return record },
		"part of one":  func(record []byte) []byte { return record[:7] },
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				socket := make(chan *recordingConn, 8)
				addr, roots := tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) {
					raw := <-socket
					for {
						if _, err := c.Read(make([]byte, 4096)); err != nil {
							return
						}
						raw.hold()
						io.WriteString(c, ok200)
						answer := raw.release()
						raw.hold()
						io.WriteString(c, strings.Replace(ok200, "ok", "no", 1))
						raw.Conn.Write(append(answer, surplus(raw.release())...))
					}
				}, func(nc net.Conn) net.Conn {
					raw := &recordingConn{Conn: nc}
					socket <- raw
					return raw
				})
				reverseTLS(p, "example.com", addr, roots)
				proxy := start(t, p)
				for range 3 {
					c := dial(t, proxy)
					c.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
					if _, body := c.response("GET"); body != "ok" {
						t.Errorf("got %q", body)
					}
				}
			})
		})
	}
}

// recordingConn holds back what is written to it.
type recordingConn struct {
	net.Conn
	holding bool
	held    []byte
}

func (c *recordingConn) hold() { c.holding = true }

func (c *recordingConn) release() []byte {
	held := c.held
	c.holding, c.held = false, nil
	return held
}

// Write implements net.Conn.
func (c *recordingConn) Write(p []byte) (int, error) {
	if !c.holding {
		return c.Conn.Write(p)
	}
	c.held = append(c.held, p...)
	return len(p), nil
}

// A hook may wrap the connection that a 101 makes of its response.
func TestHookWrapsUpgrade(t *testing.T) {
	t.Parallel()
	addr := origin(t, func(c *peer) {
		c.head()
		c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(c.Conn, c.r)
	})
	for name, wrap := range map[string]func(io.ReadWriteCloser) io.ReadWriteCloser{
		"passes": func(c io.ReadWriteCloser) io.ReadWriteCloser { return struct{ io.ReadWriteCloser }{c} },
		"panics": func(c io.ReadWriteCloser) io.ReadWriteCloser { return panickingReader{c} },
	} {
		t.Run(name, func(t *testing.T) {
			p := &mitm.Proxy{Logger: slog.New(slog.DiscardHandler), Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
				res.Body = wrap(res.Body.(io.ReadWriteCloser))
				return nil
			})}}
			c := dial(t, start(t, p))
			c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			c.head()
			if name == "panics" {
				if got, err := c.rest(); got != "" || err == nil {
					t.Errorf("got %q, %v; want a reset", got, err)
				}
				return
			}
			c.send("ping")
			if got := c.read(4); got != "ping" {
				t.Errorf("got %q", got)
			}
		})
	}
}

type panickingReader struct{ io.ReadWriteCloser }

// Read implements io.Reader.
func (panickingReader) Read([]byte) (int, error) { panic("no") }

// A hook may answer while a request that it has sent is still being uploaded.
func TestHookLeavesUpload(t *testing.T) {
	t.Parallel()
	addr := origin(t, func(c *peer) { io.Copy(io.Discard, c.r) })
	began := make(chan struct{})
	p := &mitm.Proxy{Hooks: []mitm.Hook{leaver{began}}}
	c := dial(t, start(t, p))
	c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("x", 100000))
	c.wantStatus(http.StatusGatewayTimeout)
	c.send(strings.Repeat("x", 1000))
	c.rest()
}

// leaver answers once the upload has begun.
type leaver struct{ began chan struct{} }

// HookHTTP implements mitm.HTTPHook.
func (l leaver) HookHTTP(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		req.Body = &firstRead{ReadCloser: req.Body, began: l.began}
		req.ContentLength = -1
		go next.RoundTrip(req)
		<-l.began
		return &http.Response{StatusCode: http.StatusGatewayTimeout}, nil
	})
}

// firstRead tells of the first Read.
type firstRead struct {
	io.ReadCloser
	began chan struct{}
}

// Read implements io.Reader.
func (r *firstRead) Read(p []byte) (int, error) {
	if r.began != nil {
		close(r.began)
		r.began = nil
	}
	return r.ReadCloser.Read(p)
}

// A Body that a hook put in is closed although its request could not be sent.
func TestHookBodyClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		r, w := io.Pipe()
		req.Body, req.ContentLength = r, -1
		go func() {
			defer close(closed)
			io.Copy(w, neverEnding{})
		}()
		return nil, nil
	})}}
	c := dial(t, start(t, p))
	c.send("GET http://" + closedPort(t) + "/ HTTP/1.1\r\nHost: x\r\n\r\n")
	c.wantStatus(http.StatusBadGateway)
	<-closed
}

type neverEnding struct{}

// Read implements io.Reader.
func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// A relay passes a truncation on that TLS makes visible, and resets what it breaks off.
func TestR21_RelayOverTLS(t *testing.T) {
	t.Parallel()
	began, ended := make(chan struct{}), make(chan error, 1)
	addr, roots := tlsOrigin(t, &tls.Config{}, func(c *tls.Conn) {
		b := make([]byte, 5)
		_, err := io.ReadFull(c, b)
		if string(b) == "\x00half" {
			io.WriteString(c, "half")
			c.NetConn().(*net.TCPConn).CloseWrite()
			return
		}
		close(began)
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		ended <- err
	}, nil)
	p := &mitm.Proxy{Mode: fixedMode{mitm.Destination{Addr: addr, TLS: true, Host: "example.com", Protocol: mitm.Other}}}
	p.OriginTLS = &tls.Config{RootCAs: roots}
	proxy := start(t, p)
	c := dial(t, proxy)
	c.send("\x00half")
	if got, err := c.rest(); got != "half" && got != "" || err == nil {
		t.Errorf("got %q, %v; want a reset", got, err)
	}
	c = dial(t, proxy)
	c.send("\x00more")
	<-began
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
	if err := <-ended; err == nil {
		t.Error("the origin took the end for an orderly one")
	}
}

// fixedMode sends every connection to one destination.
type fixedMode struct{ d mitm.Destination }

// Destination implements mitm.Mode.
func (m fixedMode) Destination(context.Context, *mitm.Conn) (mitm.Destination, error) {
	return m.d, nil
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// An upgrade that a hook makes begins behind the content, so it needs all of that.
func TestHookUpgradesTooEarly(t *testing.T) {
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnRequest(func(*http.Request) (*http.Response, error) {
		near, far := net.Pipe()
		go func() { io.Copy(far, far) }()
		return &http.Response{StatusCode: 101, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"x"}}, Body: near}, nil
	})}}))
	c.send("POST http://origin.test/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\nab")
	c.wantStatus(502)
}
