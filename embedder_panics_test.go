package mitm_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/mitm"
)

// siteConn opens a TLS connection to site.test, a server of f, through p.
func siteConn(t *testing.T, f *farm, p *mitm.Proxy, protocol string) (*tls.Conn, error) {
	t.Helper()
	p.CA = newCA(t)
	if p.Dial == nil {
		p.Dial = f.dial
	}
	c := connect(t, start(t, p), "site.test:443", "")
	tc := tls.Client(c.Conn, &tls.Config{ServerName: "site.test", RootCAs: poolOf(p.CA.Certificate()), NextProtos: []string{protocol}})
	return tc, tc.Handshake()
}

// getSite makes a request on a connection of siteConn.
func getSite(t *testing.T, tc *tls.Conn) (status, content string) {
	t.Helper()
	if tc.ConnectionState().NegotiatedProtocol == "h2" {
		c := newH2Peer(t, tc, true)
		s := c.wait(c.get(":authority", "site.test"))
		return valueOf(s.head, ":status"), s.body.String()
	}
	io.WriteString(tc, "GET / HTTP/1.1\r\nHost: site.test\r\n\r\n")
	res, body := (&peer{tc, t, bufio.NewReader(tc)}).response("GET")
	return fmt.Sprint(res.StatusCode), body
}

// newSiteFarm is a farm with a good site.test.
func newSiteFarm(t *testing.T) *farm {
	f := newFarm(t)
	f.serve("site.test", &tls.Config{Certificates: []tls.Certificate{f.root.leaf("site.test", newKey(t), nil)}})
	return f
}

func panicConnection(tls.ConnectionState) error { panic("secret") }

// What an embedder brings for the way to an origin may panic, or return nothing at all: that is an
// answer 502, whichever goroutine it happened in.
func TestPanicsOnTheWayToAnOrigin(t *testing.T) {
	for name, change := range map[string]func(p *mitm.Proxy){
		"VerifyConnection": func(p *mitm.Proxy) { p.OriginTLS.VerifyConnection = panicConnection },
		"StartTLS": func(p *mitm.Proxy) {
			p.StartTLS = func(context.Context, *mitm.Conn, net.Conn, *tls.Config) (net.Conn, string, error) { panic("secret") }
		},
		"StartTLS returns nothing": func(p *mitm.Proxy) {
			p.StartTLS = func(context.Context, *mitm.Conn, net.Conn, *tls.Config) (net.Conn, string, error) {
				return nil, "", nil
			}
		},
		"Dial returns nothing": func(p *mitm.Proxy) {
			p.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, nil }
		},
	} {
		for _, protocol := range []string{"h2", "http/1.1"} {
			t.Run(name+" "+protocol, func(t *testing.T) {
				f := newSiteFarm(t)
				p := &mitm.Proxy{OriginTLS: &tls.Config{RootCAs: f.root.pool()}, Logger: new(records).logger()}
				change(p)
				tc, err := siteConn(t, f, p, protocol)
				if err != nil {
					t.Fatalf("handshake: %v", err)
				}
				if status, content := getSite(t, tc); status != "502" || strings.Contains(content, "secret") {
					t.Errorf("%s %s", status, content)
				}
			})
		}
	}
}

// What panics in a client's handshake ends that connection only.
func TestPanicsInClientHandshake(t *testing.T) {
	f := newSiteFarm(t)
	log := new(records)
	done, flows := doneHook()
	p := &mitm.Proxy{ClientTLS: &tls.Config{VerifyConnection: panicConnection}, Logger: log.logger(), Hooks: []mitm.Hook{done}}
	if tc, err := siteConn(t, f, p, "http/1.1"); err == nil { // of TLS 1.3 the client is through first
		if _, err := tc.Read(make([]byte, 1)); err == nil {
			t.Error("the connection goes on")
		}
	}
	if flow := nextFlow(t, flows); flow.Err == nil || !strings.Contains(flow.Err.Error(), "client tls") {
		t.Errorf("Err is %v", flow.Err)
	}
	if log.count() != 1 {
		t.Errorf("%d log records", log.count())
	}
}

// panicBody is content that panics in one of its methods.
type panicBody string

func (b panicBody) Read(p []byte) (int, error) {
	if b == "read" {
		panic("oops")
	}
	return copy(p, "x"), io.EOF
}

func (b panicBody) Close() error {
	if b == "close" {
		panic("oops")
	}
	return nil
}

// Content that a hook puts in place is read, and closed, by goroutines of several kinds.
func TestPanicsOfContent(t *testing.T) {
	for version := 1; version <= 2; version++ {
		addr, roots := handlerOrigin(t, version, func(_ http.ResponseWriter, req *http.Request) { io.Copy(io.Discard, req.Body) })
		for _, body := range []panicBody{"read", "close"} {
			for _, length := range []int64{-1, 1, 70_000} {
				t.Run(fmt.Sprintf("HTTP%d %s %d", version, body, length), func(t *testing.T) {
					p := &mitm.Proxy{Logger: new(records).logger(), Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
						req.Body, req.ContentLength = body, length
						return nil, nil
					})}}
					c := intercept(t, p, addr, roots).h2()
					want := "200"
					if body == "read" || length > 1 { // it is short
						want = "502"
					}
					if s := c.wait(c.get(":authority", "example.com")); valueOf(s.head, ":status") != want {
						t.Errorf("%s, want %s", s.outcome(), want)
					}
				})
			}
		}
	}
}

// panickyReply is a mode with a protocol of its own.
type panickyReply struct{ addr string }

func (m panickyReply) Destination(context.Context, *mitm.Conn) (mitm.Destination, error) {
	return mitm.Destination{Addr: m.addr, Reply: func(error) error { panic("oops") }}, nil
}

func TestPanicsInReply(t *testing.T) {
	up, _ := answering(t, ok200)
	for _, addr := range []string{up, "127.0.0.1:1"} {
		for _, ca := range []*mitm.CA{nil, newCA(t)} {
			p := &mitm.Proxy{Mode: panickyReply{addr}, CA: ca, Logger: new(records).logger()}
			dial(t, start(t, p)).closed()
		}
	}
}

// A handler that ends its goroutine, as t.Fatal does, ends the connection.
func TestPagesGoexit(t *testing.T) {
	exit := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() })
	c := dial(t, start(t, &mitm.Proxy{Mode: mitm.Explicit{Host: "own.test", Handler: exit}}))
	c.send("GET http://own.test/ HTTP/1.1\r\nHost: own.test\r\n\r\n")
	c.closed()
}
