package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/mitm"
)

// firstBytes are beginnings of what is neither SOCKS nor a request.
var firstBytes = map[string]string{
	"binary": "\x01", "NUL": "\x00", "8-bit": "\xff", "DEL": "\x7f", "SOCKS6": "\x06\x01", "blank": " ", "delimiter": "(",
	"TLS": "\x16", "ClientHello": smallHello("origin.test"), "later": "GE\x00", "after empty lines": "\r\n\r\n\x01",
	"LF and binary": "\n\x80", "UTF-8": "\xef\xbb\xbfGET / HTTP/1.1",
}

// What begins with neither SOCKS nor a request is answered and closed at once, not when something
// has run out of time.
func TestR59_NeitherSOCKSNorHTTP(t *testing.T) {
	for name, sent := range firstBytes {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					p.HeadTimeout = -1
					done, flows := doneHook()
					p.Hooks, p.Dial = append(p.Hooks, done), noDial(t)
					client, server := memPipe()
					served := make(chan error, 1)
					go func() { served <- p.ServeConn(context.Background(), server) }()
					io.WriteString(client, sent)
					synctest.Wait()
					c := newTimelessPeer(t, client)
					res, body := c.response("GET")
					if res.StatusCode != 400 || !res.Close || strings.HasPrefix(sent, "\x16") != strings.Contains(body, "TLS") {
						t.Errorf("%s, close %v: %q", res.Status, res.Close, body)
					}
					c.closed()
					client.Close()
					<-served
					if f := nextFlow(t, flows); f.Status != 400 || !strings.HasSuffix(sent, string(f.Head)) || f.Head == nil {
						t.Errorf("status %d, head %q, %v", f.Status, f.Head, f.Err)
					}
					p.Close()
				})
			})
		})
	}
}

// So it is on a connection that has had requests before, and in front of one server.
func TestR59_NoRequestLater(t *testing.T) {
	for name, mode := range map[string]mitm.Mode{"explicit": nil, "reverse": reverseTo("origin.test:80")} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				synctest.Test(t, func(t *testing.T) {
					l := newMemListener()
					memAnswering(t, l, ok200)
					p.Mode, p.Dial, p.HeadTimeout = mode, l.Dial, -1
					client, server := memPipe()
					go p.ServeConn(context.Background(), server)
					c := newTimelessPeer(t, client)
					c.send(plainGet)
					c.wantStatus(200)
					c.send("\x16\x03\x01")
					c.wantStatus(400)
					c.closed()
					client.Close()
					p.Close()
					l.Close()
				})
			})
		})
	}
}

// A request whose beginning comes in pieces is waited for.
func TestR59_RequestInPieces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newMemListener()
		memAnswering(t, l, ok200)
		p := &mitm.Proxy{Dial: l.Dial}
		client, server := memPipe()
		go p.ServeConn(context.Background(), server)
		for _, b := range []byte("\r\n\n\r\n" + plainGet) {
			client.Write([]byte{b})
			synctest.Wait()
		}
		newTimelessPeer(t, client).wantStatus(200)
		client.Close()
		p.Close()
		l.Close()
	})
}

// Clients that take the port for one of TLS can say what is wrong.
func TestR59_TLSClient(t *testing.T) {
	t.Parallel()
	proxy := start(t, new(mitm.Proxy))
	tc := tls.Client(dial(t, proxy).Conn, &tls.Config{ServerName: "proxy.test"})
	if record := (tls.RecordHeaderError{}); !errors.As(tc.Handshake(), &record) || string(record.RecordHeader[:]) != "HTTP/" {
		t.Errorf("the client was told %q", record.RecordHeader)
	}
	_, err := http.Get("https://" + proxy + "/")
	if err == nil || !strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		t.Errorf("net/http: %v", err)
	}
}
