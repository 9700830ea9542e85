package mitm_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/mitm"
)

// An origin that speaks HTTP/2 and nothing else is reached by clients of HTTP/1 all the same:
// content both ways, trailers and interim responses.
func TestR47_OriginInsistsOnHTTP2(t *testing.T) {
	origin := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		content, _ := io.ReadAll(req.Body)
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "X-Sum")
		fmt.Fprintf(w, "%s %s %s %d %s", req.Proto, req.Method, req.RequestURI, len(content), req.Header.Get("X-Hook"))
		w.Header().Set("X-Sum", "42")
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	root := newIssuer(t, "root")
	http2 := &tls.Config{Certificates: []tls.Certificate{root.leaf("example.com", newKey(t), nil)}, NextProtos: []string{"h2"}}
	nothing := http2.Clone()
	nothing.NextProtos = []string{"none of these"} // crypto/tls itself would let HTTP/1 in
	choose := http2.Clone()
	choose.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(hello.SupportedProtos, "h2") {
			return http2, nil
		}
		return nothing, nil
	}
	go origin.Serve(tls.NewListener(l, choose))
	defer origin.Close()
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		ca := newCA(t)
		p.CA, p.OriginTLS = ca, &tls.Config{RootCAs: root.pool()}
		addr := start(t, p)
		for range 2 {
			c := dial(t, addr)
			c.send("CONNECT " + l.Addr().String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
			c.head()
			nc := tls.Client(c.Conn, &tls.Config{RootCAs: poolOf(ca.Certificate()), ServerName: "example.com", NextProtos: []string{"http/1.1"}})
			inside := newPeer(t, nc)
			for _, size := range []int{0, 10, 300_000} {
				inside.send(fmt.Sprintf("POST /%%2F?a HTTP/1.1\r\nHost: example.com\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)))
				if head := inside.head(); !strings.HasPrefix(head, "HTTP/1.1 103 ") || !strings.Contains(head, "Link: </style.css>") {
					t.Errorf("interim %q", head)
				}
				res, got := inside.response("POST")
				want := fmt.Sprintf("HTTP/2.0 POST /%%2F?a %d ", size)
				if res.StatusCode != 200 || !strings.HasPrefix(got, want) || res.Trailer.Get("X-Sum") != "42" {
					t.Errorf("%s %q, trailer %v; want %q", res.Status, got, res.Trailer, want)
				}
			}
			nc.Close()
		}
	})
}

// A client that speaks HTTP/2 and nothing else reaches an origin that refuses that, from its first
// request on, also if the origin refuses only after the client was told what it speaks. If it was
// in time it is not offered HTTP/2 alone again.
func TestR47_OriginInsistsOnHTTP1(t *testing.T) {
	const clients, each = 3, 2
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %v", late), func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				addr, roots := tlsOrigin(t, &tls.Config{NextProtos: []string{"http/1.1"}}, func(tc *tls.Conn) {
					answerTLS(tc, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				}, nil)
				told := make(chan struct{})
				if !late {
					close(told)
				}
				var dials atomic.Int32
				i := interceptBy(t, p, func(ctx context.Context, network, _ string) (net.Conn, error) {
					dials.Add(1)
					<-told
					return dialTo(addr)(ctx, network, "")
				}, roots)
				for client := range clients {
					c := i.h2()
					if late && client == 0 {
						close(told)
					}
					for range each {
						c.want(c.get(), "200")
					}
				}
				if n := dials.Load(); !late && n != 1+clients*each {
					t.Errorf("%d dials for %d requests, want one more", n, clients*each)
				}
			})
		})
	}
}
