package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/mitm"
)

// An answer that comes before the end of the request's content says nothing about the rest of that,
// unless it says that it closes the connection (RFC 9112, section 9.6).

const accepted = "HTTP/1.1 202 Accepted\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"

// hasty answers each request when it has seen its head, and reads the content then. It reports each that
// is complete as "1 POST content", where 1 is the number of the connection, and what is not as "1 cut".
type hasty struct {
	conns  atomic.Int32
	seen   chan string
	answer func(n int, head string) string
}

func newHasty(answer string) *hasty {
	return &hasty{seen: make(chan string, 64), answer: func(int, string) string { return answer }}
}

func (h *hasty) serve(c *peer) {
	n := int(h.conns.Add(1))
	for {
		head, err := c.tryHead()
		if err != nil {
			return
		}
		c.send(h.answer(n, head))
		method, _, _ := strings.Cut(head, " ")
		got := gotRequest{fields: parseFields(head[strings.Index(head, "\r\n")+2:])}
		if err := c.readContent(&got); err != nil {
			h.seen <- fmt.Sprint(n, " cut")
			return
		}
		h.seen <- fmt.Sprint(n, " ", method, " ", got.content)
	}
}

// earlyEntries are ways to an origin, and what a request line says there.
var earlyEntries = map[string]func(t *testing.T, p *mitm.Proxy, h *hasty) (c *peer, target string){
	"explicit": func(t *testing.T, p *mitm.Proxy, h *hasty) (*peer, string) {
		addr := origin(t, h.serve)
		return dial(t, start(t, p)), "http://" + addr
	},
	"SOCKS": func(t *testing.T, p *mitm.Proxy, h *hasty) (*peer, string) {
		return socksTo(t, start(t, p), origin(t, h.serve), ""), ""
	},
	"transparent": func(t *testing.T, p *mitm.Proxy, h *hasty) (*peer, string) {
		p.Mode = mitm.Transparent{Lookup: lookup(origin(t, h.serve))}
		return dial(t, start(t, p)), ""
	},
	"TLS": func(t *testing.T, p *mitm.Proxy, h *hasty) (*peer, string) {
		addr, roots := h1Origin(t, h.serve)
		return newPeer(t, intercept(t, p, addr, roots).tls("http/1.1")), ""
	},
}

// uploads are requests in two parts, and the content. METHOD and TARGET are to be replaced.
var uploads = map[string][3]string{
	"length":     {"Content-Length: 10\r\n\r\n", "0123456789", "0123456789"},
	"begun":      {"Content-Length: 10\r\n\r\n012", "3456789", "0123456789"},
	"chunked":    {"Transfer-Encoding: chunked\r\n\r\n", "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n", "0123456789"},
	"in a chunk": {"Transfer-Encoding: chunked\r\n\r\n5\r\n01", "234\r\n0\r\nX-Sum: 1\r\n\r\n", "01234"},
	"large":      {"Content-Length: 1000000\r\n\r\n0", strings.Repeat("x", 999_999), "0" + strings.Repeat("x", 999_999)},
	// which would be requests if anybody took the end of the answer for that of the content
	"smuggled": {"Content-Length: 32\r\n\r\n", "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"[:32], "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"[:32]},
}

// The client has the answer while it sends the content, which goes on to the origin; both connections are
// kept for the requests that follow.
func TestR68_Accepted(t *testing.T) {
	for name, enter := range earlyEntries {
		for kind, upload := range uploads {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					h := newHasty(accepted)
					c, target := enter(t, p, h)
					for range 2 {
						c.send("POST " + target + "/ HTTP/1.1\r\nHost: example.com\r\n" + upload[0])
						if got := c.head() + c.read(2); got != accepted {
							t.Fatalf("got %q", got)
						}
						c.send(upload[1])
						wantSeen(t, h.seen, "1 POST "+upload[2])
					}
					c.send("GET " + target + "/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
					c.wantStatus(202)
					wantSeen(t, h.seen, "1 GET ")
				})
			})
		}
	}
}

// A request behind the content is served after it, and is no part of it.
func TestR68_Pipelined(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		h := newHasty(accepted)
		addr := origin(t, h.serve)
		c := dial(t, start(t, p))
		c.send(headTo(addr, "POST", "/", "Content-Length: 10"))
		c.wantStatus(202)
		c.send("0123456789" + headTo(addr, "PUT", "/", "Transfer-Encoding: chunked"))
		c.wantStatus(202)
		c.send("1\r\nx\r\n0\r\n\r\n" + headTo(addr, "GET", "/"))
		c.wantStatus(202)
		wantSeen(t, h.seen, "1 POST 0123456789", "1 PUT x", "1 GET ")
	})
}

// Authentication of connections begins with a challenge that does not wait for content. It goes on
// where it has begun, for this client alone.
func TestR68_ConnectionBound(t *testing.T) {
	for status, fields := range map[int][2]string{401: {"WWW-Authenticate", "Authorization"}, 407: {"Proxy-Authenticate", "Proxy-Authorization"}} {
		for _, expect := range []string{"", "Expect: 100-continue\r\n"} {
			t.Run(fmt.Sprint(status, expect), func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					h := newHasty("")
					h.answer = func(n int, head string) string {
						switch strings.Join(fieldsOf(head)[strings.ToLower(fields[1])], "") {
						case "NTLM second":
							return accepted
						case "NTLM first":
							return fmt.Sprintf("HTTP/1.1 %d x\r\n%s: NTLM challenge\r\nContent-Length: 2\r\n\r\nno", status, fields[0])
						}
						return fmt.Sprintf("HTTP/1.1 %d x\r\n%s: NTLM\r\nContent-Length: 0\r\n\r\n", status, fields[0])
					}
					p.Mode = mitm.Transparent{Lookup: lookup(origin(t, h.serve))}
					proxy := start(t, p)
					c := dial(t, proxy)
					for _, credentials := range []string{"", fields[1] + ": NTLM first\r\n", fields[1] + ": NTLM second\r\n"} {
						c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n" + expect + credentials + "\r\n")
						res, _ := c.response("POST")
						if res.Close || (res.StatusCode == 202) != strings.Contains(credentials, "second") {
							t.Fatalf("%q: %s, close %v", credentials, res.Status, res.Close)
						}
						c.send("abc")
						c.send("def")
						wantSeen(t, h.seen, "1 POST abcdef")
					}
					other := dial(t, proxy)
					other.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					other.wantStatus(status)
					wantSeen(t, h.seen, "2 GET ")
				})
			})
		}
	}
}

// Where the client's connection ends with the answer, the content comes first all the same.
func TestR68_ClosingClients(t *testing.T) {
	for name, request := range map[string]string{
		"HTTP/1.0": "POST http://ADDR/ HTTP/1.0\r\nHost: h\r\nContent-Length: 10\r\n\r\n",
		"close":    "POST http://ADDR/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 10\r\n\r\n",
	} {
		for _, answer := range []string{accepted, "HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"} {
			t.Run(name, func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					h := newHasty(answer)
					c := dial(t, start(t, p))
					c.send(strings.ReplaceAll(request, "ADDR", origin(t, h.serve)))
					if head := c.head(); !strings.Contains(head, "Connection: close\r\n") {
						t.Errorf("got %q", head)
					}
					if got := c.read(2); got != "ok" && got != "2\r" {
						t.Errorf("got %q", got)
					}
					if answer != accepted && name == "HTTP/1.0" {
						c.closed() // which says that the answer is complete
					}
					c.send("0123456789")
					wantSeen(t, h.seen, "1 POST 0123456789")
					c.rest()
				})
			})
		}
	}
}

// A client that stops after the answer is no trouble, and the origin does not take the content for complete.
func TestR68_ClientStops(t *testing.T) {
	for name, stop := range map[string]func(c *net.TCPConn){
		"closed":      func(c *net.TCPConn) { c.Close() },
		"half closed": func(c *net.TCPConn) { c.CloseWrite() },
		"reset":       func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
	} {
		for _, upload := range uploads {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					h := newHasty(accepted)
					addr := origin(t, h.serve)
					done, flows := doneHook()
					p.Hooks = append(p.Hooks, done)
					c := dial(t, start(t, p))
					c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n" + upload[0])
					c.wantStatus(202)
					stop(c.Conn.(*net.TCPConn))
					wantSeen(t, h.seen, "1 cut")
					if f := nextFlow(t, flows); f.Status != 202 || f.Err != nil {
						t.Errorf("status %d, %v", f.Status, f.Err)
					}
				})
			})
		}
	}
}

// An origin that leaves after its answer is noticed though the client sends nothing.
func TestR68_OriginLeaves(t *testing.T) {
	for name, leave := range map[string]func(c *net.TCPConn){
		"closed":  func(c *net.TCPConn) {},
		"reset":   func(c *net.TCPConn) { c.SetLinger(0) },
		"surplus": func(c *net.TCPConn) { io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); io.Copy(io.Discard, c) },
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				proceed := make(chan bool)
				addr := origin(t, func(c *peer) {
					c.tryHead()
					c.send(accepted)
					<-proceed
					leave(c.Conn.(*net.TCPConn))
				})
				c := dial(t, start(t, p))
				c.send(headTo(addr, "POST", "/", "Content-Length: 10") + "01")
				if got := c.head() + c.read(2); got != accepted {
					t.Errorf("got %q", got)
				}
				close(proceed)
				c.closed()
			})
		})
	}
}

// The content has time as long as it moves.
func TestR68_Timeout(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		h := newHasty(accepted)
		c := inMemory(t, p, h.serve)
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 1000"))
		c.wantStatus(202)
		for range 500 {
			time.Sleep(10 * time.Second)
			c.send("x")
		}
		start := time.Now()
		c.closed()
		wantElapsed(t, start, p.ContentTimeout)
		wantSeen(t, h.seen, "1 cut")
	})
}

// An origin that does not go on reading has the same time.
func TestR68_OriginStops(t *testing.T) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		p.ContentTimeout = 16 * time.Second
		ended := make(chan bool)
		c := inMemory(t, p, func(c *peer) {
			c.tryHead()
			c.send(accepted)
			<-ended
		})
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10000000"))
		c.wantStatus(202)
		start := time.Now()
		io.WriteString(c.Conn, strings.Repeat("x", 10_000_000))
		c.rest()
		if d := time.Since(start); d > 2*p.ContentTimeout {
			t.Errorf("it ended after %v", d)
		}
		close(ended)
	})
}

// Hooks may answer in the origin's place, or change the content: what a call of next has begun to
// send goes on.
func TestR68_Hooks(t *testing.T) {
	for name, hook := range map[string]func(next http.RoundTripper, req *http.Request) (*http.Response, error){
		"own answer": func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			return text(202, "ok"), nil
		},
		"read ahead": func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err != nil {
				return nil, err
			}
			b, err := io.ReadAll(res.Body)
			res.Body = io.NopCloser(strings.NewReader(string(b)))
			return res, err
		},
		"wrapped content": func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			req.Body, req.ContentLength = struct{ io.ReadCloser }{req.Body}, -1
			return next.RoundTrip(req)
		},
		"wrapped answer": func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
			res, err := next.RoundTrip(req)
			if err == nil {
				res.Body = io.NopCloser(res.Body) // which is not closed
			}
			return res, err
		},
	} {
		for kind, upload := range uploads {
			t.Run(name+" "+kind, func(t *testing.T) {
				t.Parallel()
				h := newHasty(accepted)
				addr := origin(t, h.serve)
				c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{wrapping(hook)}}))
				for range 2 {
					c.send("POST http://" + addr + "/ HTTP/1.1\r\nHost: h\r\n" + upload[0])
					if res, body := c.response("POST"); res.StatusCode != 202 || body != "ok" || res.Close {
						t.Fatalf("%s %q, close %v", res.Status, body, res.Close)
					}
					c.send(upload[1])
					wantSeen(t, h.seen, "1 POST "+upload[2])
				}
			})
		}
	}
}

// A hook may authenticate by itself, with content that it has put aside.
func TestR68_HookAuthenticates(t *testing.T) {
	h := newHasty("")
	h.answer = func(n int, head string) string {
		if fieldsOf(head)["authorization"] != nil {
			return accepted
		}
		return "HTTP/1.1 401 x\r\nWWW-Authenticate: NTLM\r\nContent-Length: 0\r\n\r\n"
	}
	content := strings.Repeat("0123456789", 100_000)
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		b, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		for _, credentials := range []string{"", "NTLM x"} {
			req = req.Clone(req.Context())
			req.Body = io.NopCloser(strings.NewReader(string(b)))
			if credentials != "" {
				req.Header.Set("Authorization", credentials)
			}
			res, err := next.RoundTrip(req)
			if err != nil || credentials != "" {
				return res, err
			}
			res.Body.Close()
		}
		return nil, errors.New("not reached")
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
	c.send(headTo(origin(t, h.serve), "POST", "/", "Content-Length: "+strconv.Itoa(len(content))) + content)
	c.wantStatus(202)
	wantSeen(t, h.seen, "1 POST "+content, "1 POST "+content)
}

// A hook that wants the client's content itself is not to wait for an upload whose answer is through.
func TestR68_HookReadsContent(t *testing.T) {
	addr := origin(t, func(c *peer) {
		c.tryHead()
		c.send("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
		c.rest()
	})
	hook := wrapping(func(next http.RoundTripper, req *http.Request) (*http.Response, error) {
		if _, err := next.RoundTrip(req); err != nil {
			return nil, err
		}
		b, err := io.ReadAll(req.Body)
		return text(200, string(b)), err
	})
	for _, expect := range []string{"Expect: 100-continue", "A: b"} {
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}))
		c.send(headTo(addr, "POST", "/", "Content-Length: 3", expect))
		if expect != "A: b" {
			if head := c.head(); head != "HTTP/1.1 100 Continue\r\n\r\n" {
				t.Fatalf("%q", head)
			}
		}
		time.AfterFunc(time.Millisecond, func() { c.send("abc") })
		if res, body := c.response("POST"); res.StatusCode != 200 && res.StatusCode != 502 || body != "abc" && expect != "A: b" {
			t.Errorf("%s: %s %q", expect, res.Status, body)
		}
	}
}

// Towards an origin that speaks HTTP/2 it is the same.
func TestR68_HTTP2Origin(t *testing.T) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			seen := make(chan string, 8)
			cert, roots := exampleCert()
			config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
			addr, _ := tlsOrigin(t, onlyHTTP2(config), func(tc *tls.Conn) {
				c := newH2Peer(t, tc, false)
				for s := c.accept(); s != nil; s = c.accept() {
					c.headers(s.id, false, ":status", "202")
					c.data(s.id, true, "ok")
					c.until(s.over)
					seen <- s.outcome() + s.body.String()
				}
			}, nil)
			i := intercept(t, p, addr, roots)
			i.open = func() net.Conn {
				ours, theirs := k.pair(t)
				go p.ServeConn(context.Background(), ours)
				return theirs
			}
			c := newPeer(t, i.tls("http/1.1"))
			for _, upload := range uploads {
				c.send("POST / HTTP/1.1\r\nHost: example.com\r\n" + upload[0])
				if res, body := c.response("POST"); res.StatusCode != 202 || body != "ok" || res.Close {
					t.Fatalf("%s %q, close %v", res.Status, body, res.Close)
				}
				c.send(upload[1])
				wantSeen(t, seen, upload[2])
			}
		})
	})
}

// To a client of HTTP/2 net/http says the end of a response only when it reads no more of the request.
func TestR68_HTTP2Client(t *testing.T) {
	knownFailure(t)
	h := newHasty(accepted)
	addr, roots := h1Origin(t, h.serve)
	c := intercept(t, new(mitm.Proxy), addr, roots).h2()
	s := c.begin(false, ":method", "POST", "content-length", "10")
	c.until(func() bool { return s.ended })
	c.data(s.id, true, "0123456789")
	c.want(s, "202")
	wantSeen(t, h.seen, "1 POST 0123456789")
}

// Nothing is read on for an answer of the proxy's own, or of a Transport.
func TestR68_OwnAnswers(t *testing.T) {
	for status, p := range answeringHere() {
		c := dial(t, start(t, p))
		c.send(headTo("origin.test", "POST", "/", "Content-Length: 10000000"))
		if res, _ := c.response("POST"); res.StatusCode != status || !res.Close {
			t.Errorf("%s, close %v", res.Status, res.Close)
		}
		c.closed()
	}
}

// It is so with connections of every kind, on both sides.
func TestR68_Conns(t *testing.T) {
	eachConnKind(t, func(t *testing.T, k connKind) {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			h := newHasty(accepted)
			p.Dial = func(context.Context, string, string) (net.Conn, error) {
				ours, theirs := k.pair(t)
				go func() {
					defer theirs.Close()
					h.serve(newPeer(t, theirs))
				}()
				return ours, nil
			}
			ours, theirs := k.pair(t)
			served := make(chan error, 1)
			go func() { served <- p.ServeConn(t.Context(), ours) }()
			c := newPeer(t, theirs)
			for _, upload := range uploads {
				c.send("POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\n" + upload[0])
				if got := c.head() + c.read(2); got != accepted {
					t.Fatalf("got %q", got)
				}
				c.send(upload[1])
				wantSeen(t, h.seen, "1 POST "+upload[2])
			}
			theirs.Close()
			<-served
			p.Close()
		})
	})
}
