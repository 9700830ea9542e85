package mitm_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// Whatever becomes of a request, its credentials are for the proxy alone.
func TestR43_AuthSecret(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	encoded := base64.StdEncoding.EncodeToString([]byte("user:" + secret))
	got := make(chan string, 64)
	addr := origin(t, func(c *peer) {
		got <- c.head()
		c.send(ok200)
	})
	var seen records
	p := &mitm.Proxy{
		Mode:   mitm.Explicit{Authenticate: mitm.Passwords(map[string]string{"user": secret})},
		Logger: slog.New(slog.NewTextHandler(&seen, &slog.HandlerOptions{Level: slog.LevelDebug})),

		IdleTimeout: time.Nanosecond, // every connection ends after its first answer
		Hooks: []mitm.Hook{
			mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				fmt.Fprintf(&seen, "%+v\n", c.Destination.Addr)
				return mitm.Default, nil
			}),
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				fmt.Fprintf(&seen, "%v %v %v\n", req.URL, req.Header, req.Trailer)
				return nil, nil
			}),
			mitm.OnDone(func(f *mitm.Flow) {
				fmt.Fprintf(&seen, "%s %s %v\n", f.Method, f.URL, f.Err)
				if f.Request != nil {
					fmt.Fprintf(&seen, "%v %v\n", f.Request.Header, f.Request.Trailer)
				}
			}),
		},
	}
	proxy := start(t, p)
	field := "Proxy-Authorization: Basic " + encoded + "\r\n"
	for _, request := range []string{
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\n" + field + "\r\n",
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\nConnection: proxy-authorization, x\r\n" + field + "\r\n",
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n" + field + "\r\n",
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\n" + strings.Replace(field, secret, "", 1) + field + "\r\n",
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\n" + strings.Replace(field, "Basic", "Bearer", 1) + "\r\n",
		"TRACE http://ADDR/ HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n" + field + "\r\n",
		"GET http://user:" + secret + "@ADDR/ HTTP/1.1\r\nHost: h\r\n" + field + "\r\n",
		"POST http://ADDR/ HTTP/1.1\r\nHost: h\r\n" + field + "Content-Length: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\n" + field + "\r\n",
		"GET http://ADDR/ HTTP/1.1\r\nHost: h\r\n" + field[:len(field)-2] + "\x00\r\n\r\n",
		"CONNECT ADDR HTTP/1.1\r\nHost: h\r\n" + field + "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"CONNECT " + unreachable(t) + " HTTP/1.1\r\nHost: h\r\n" + field + "\r\n",
		"\x05\x01\x02\x01\x04user\x06" + secret + socksRequest(addr) + "GET / HTTP/1.1\r\nHost: h\r\n" + field + "\r\n",
		"\x05\x01\x02\x01\x04user\x07" + secret + "x" + socksRequest(addr),
		"\x05\x01\x02\x01\x04user\x06" + secret + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
		"\x05\x01\x02\x02\x04user\x06" + secret,
	} {
		c := dial(t, proxy)
		c.send(strings.ReplaceAll(request, "ADDR", addr))
		told, _ := c.rest()
		if told == "" || strings.Contains(told, secret) || strings.Contains(told, encoded) {
			t.Errorf("%q: the client was told %q", request, told)
		}
	}
	p.Close()
	for len(got) > 0 {
		if head := <-got; strings.Contains(strings.ToLower(head), "proxy-authorization") || strings.Contains(head, encoded) {
			t.Errorf("the origin got %q", head)
		}
	}
	if text := seen.buf.String(); strings.Contains(text, secret) || strings.Contains(text, encoded) || len(text) < 1000 {
		t.Errorf("hooks and log saw %q", text)
	}
}

// What Authenticate says is for Flow.Err, not for the client.
func TestAuthReason(t *testing.T) {
	t.Parallel()
	reason := errors.New("the directory is down")
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Mode = mitm.Explicit{Authenticate: func(context.Context, string, string) error { return reason }}
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := dial(t, start(t, p))
		c.send("GET http://origin.test/ HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n")
		c.wantChallenge("GET", false)
		if f := nextFlow(t, flows); !errors.Is(f.Err, reason) || !errors.Is(f.Err, mitm.ErrCredentials) || f.Conn.Destination.Addr != "" {
			t.Errorf("flow: %v", f.Err)
		}
	})
}

// An Authenticate that panics has not agreed, and what it said is for the log alone.
func TestAuthPanics(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		log := new(records)
		p.Logger, p.Dial = log.logger(), noDial(t)
		p.Mode = mitm.Explicit{Authenticate: func(context.Context, string, string) error { panic("secret reason") }}
		proxy := start(t, p)
		c := dial(t, proxy)
		for range 2 {
			c.send("GET http://origin.test/ HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n")
			c.wantChallenge("GET", false)
		}
		c.send("CONNECT origin.test:80 HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n")
		c.wantChallenge("GET", true)
		c.closed()
		c = dial(t, proxy)
		c.send("\x05\x01\x02\x01\x04user\x04pass" + socksRequest("origin.test:80"))
		if got, _ := c.rest(); got != "\x05\x02" && got != "\x05\x02\x01\x01" {
			t.Errorf("SOCKS client was told %q", got)
		}
		if got := log.count(); got != 4 {
			t.Errorf("%d log records, want 4", got)
		}
	})
}

// Authenticate gets the context of the connection, which ends with it.
func TestAuthContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	for name, text := range map[string]string{
		"HTTP":    "GET http://origin.test/ HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n",
		"CONNECT": "CONNECT origin.test:80 HTTP/1.1\r\nHost: h\r\n" + basic("user:pass") + "\r\n",
		"SOCKS":   "\x05\x01\x02\x01\x04user\x04pass",
	} {
		t.Run(name, func(t *testing.T) {
			asked, served := make(chan any, 1), make(chan error, 1)
			p := &mitm.Proxy{Dial: noDial(t), Mode: mitm.Explicit{Authenticate: func(ctx context.Context, _, _ string) error {
				asked <- ctx.Value(key{})
				<-ctx.Done()
				return ctx.Err()
			}}}
			defer p.Close()
			client, server := memPipe()
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, name))
			defer cancel()
			go func() { served <- p.ServeConn(ctx, server) }()
			io.WriteString(client, text)
			if got := <-asked; got != name {
				t.Errorf("its context has %v", got)
			}
			cancel()
			if err := <-served; err != nil {
				t.Errorf("ServeConn: %v", err)
			}
			client.Close()
		})
	}
}

// A mode that hands some connections to Explicit does not lose the authentication.
func TestAuthWrapped(t *testing.T) {
	t.Parallel()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		authenticate, _ := users("user|pass")
		explicit := mitm.Explicit{Authenticate: authenticate}
		p.Dial = noDial(t)
		p.Mode = modeFunc(func(ctx context.Context, c *mitm.Conn) (mitm.Destination, error) {
			return explicit.Destination(ctx, c)
		})
		c := dial(t, start(t, p))
		c.send("GET http://origin.test/ HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantChallenge("GET", false)
	})
}
