package mitm_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// refuseAll is an HTTPHook that lets no request pass.
func refuseAll() mitm.Hook {
	return mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, mitm.ErrRejected })
}

// unseenWay is how a client comes to its origin, and what it negotiates there.
type unseenWay struct {
	name  string
	mode  mitm.Mode // nil: explicit
	hello string    // what asks for the tunnel
	reply int       // the length of the answer
	tls   bool
	alpn  []string
}

// unseenWays are all of them.
func unseenWays() (list []unseenWay) {
	socks := "\x05\x01\x00\x05\x01\x00\x03\x09site.test\x01\xbb"
	for _, w := range []unseenWay{
		{name: "transparent", mode: fixed(mitm.Destination{Addr: "site.test:443"})},
		{name: "CONNECT", hello: "CONNECT site.test:443 HTTP/1.1\r\nHost: site.test:443\r\n\r\n", reply: len(established)},
		{name: "SOCKS5", hello: socks, reply: 2 + 10},
	} {
		list = append(list, w)
		for _, alpn := range []string{"", "http/1.1", "h2"} {
			w := w
			w.name, w.tls = w.name+" TLS "+alpn, true
			if alpn != "" {
				w.alpn = []string{alpn}
			}
			list = append(list, w)
		}
	}
	return list
}

// speech is what a client says, in pieces, with pauses between them.
type speech struct {
	said   []byte
	sizes  []byte // of the pieces, in turn
	pauses []byte // seconds behind each, in turn
}

// unseenLab is a proxy in memory that opens TLS, and an origin that records.
type unseenLab struct {
	ca   *mitm.CA
	cert tls.Certificate
}

func newUnseenLab(t testing.TB) *unseenLab {
	return &unseenLab{newCA(t), newIssuer(t, "root").leaf("site.test", newKey(t), nil)}
}

// record returns what the origin gets of what a client says, inside TLS if there is some, and what the
// client gets. It is to be called in a bubble.
func (l *unseenLab) record(t *testing.T, w unseenWay, s speech, hooks ...mitm.Hook) (origin, client string) {
	var recorded, heard bytes.Buffer
	ended := make(chan bool, 64)
	dials := 0
	p := &mitm.Proxy{Mode: w.mode, CA: l.ca, Hooks: hooks, OriginTLS: &tls.Config{InsecureSkipVerify: true}}
	p.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := memPipe()
		dials++
		go func() {
			defer func() { ended <- true }()
			defer far.Close()
			var from io.Reader = far
			if w.tls {
				from = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{l.cert}, NextProtos: w.alpn})
			}
			io.Copy(&recorded, from)
		}()
		return near, nil
	}
	nc, server := memPipe()
	served := make(chan error, 1)
	go func() { served <- p.ServeConn(t.Context(), server) }()
	c := net.Conn(nc)
	io.WriteString(c, w.hello)
	io.ReadFull(c, make([]byte, w.reply))
	if w.tls {
		c = tls.Client(nc, &tls.Config{InsecureSkipVerify: true, NextProtos: w.alpn})
		if err := c.(*tls.Conn).Handshake(); err != nil {
			t.Errorf("handshake: %v", err)
		}
	}
	read := make(chan bool)
	go func() {
		defer close(read)
		io.Copy(&heard, c)
	}()
	s.say(c)
	c.(interface{ CloseWrite() error }).CloseWrite()
	<-served // the origin ends with it
	<-read
	nc.Close()
	p.Close()
	for range dials {
		<-ended
	}
	return recorded.String(), heard.String()
}

func (s speech) say(c net.Conn) {
	for i := 0; len(s.said) > 0; i++ {
		n := len(s.said)
		if len(s.sizes) > 0 && s.sizes[i%len(s.sizes)] > 0 {
			n = min(n, int(s.sizes[i%len(s.sizes)]))
		}
		if _, err := c.Write(s.said[:n]); err != nil {
			return
		}
		s.said = s.said[n:]
		if len(s.pauses) > 0 {
			time.Sleep(time.Duration(s.pauses[i%len(s.pauses)]) * time.Second)
		}
	}
}

// takesForHTTP reports why a server might take b for a request, "" if none would.
func takesForHTTP(b string) string {
	if strings.HasPrefix(b, "PRI * HTTP/2") {
		return "the preface of HTTP/2"
	}
	if req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(b + "\r\n\r\n"))); err == nil {
		return "net/http reads " + req.Method + " " + req.RequestURI
	}
	line, _, _ := strings.Cut(strings.TrimLeftFunc(latin1(b), isLeading), "\n")
	words := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(allBlanks, r) })
	if len(words) < 2 || !registered.MatchString(words[0]) && strings.ContainsFunc(line, isBinary) {
		return ""
	}
	versionAt := slices.IndexFunc(words[1:], func(w string) bool { return strings.HasPrefix(strings.ToLower(w), "http/") })
	switch {
	case versionAt >= 0:
		return "a version of HTTP"
	case otherVersion.MatchString(words[len(words)-1]) && (words[0] == "OPTIONS" || !registered.MatchString(words[0])):
	case words[1][0] == '/', words[1][0] == '*', strings.Contains(words[1], "://"):
		return "a request target"
	case strings.EqualFold(words[0], "CONNECT") && hostPort.MatchString(words[1]):
		return "a CONNECT"
	}
	return ""
}

const allBlanks = " \t\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0"

var (
	registered   = regexp.MustCompile(`(?i)^(get|head|post|put|delete|connect|options|trace|patch|propfind|search|query|lock)$`)
	otherVersion = regexp.MustCompile(`(?i)^(rtsp|ice|sip)/.`)
	hostPort     = regexp.MustCompile(`^.+:0*[1-9][0-9]*$`)
)

func isLeading(r rune) bool { return r > 0 && r <= ' ' }

// latin1 decodes b, in which each byte is a character.
func latin1(b string) string {
	runes := make([]rune, len(b))
	for i := range len(b) {
		runes[i] = rune(b[i])
	}
	return string(runes)
}

func isBinary(r rune) bool { return r == 0 || r >= 0x80 }

// FuzzUnseen looks for what gets past a hook that refuses everything: any first bytes, in any pieces with
// any pauses, on every way to an origin that records, in the clear and inside TLS. Time passes in a
// bubble, so that pauses cost nothing.
func FuzzUnseen(f *testing.F) {
	for i, said := range unseenSeeds {
		f.Add(byte(i), []byte(said), []byte{0}, []byte{0})
		f.Add(byte(i+1), []byte(said), []byte{1, 5, 3}, []byte{0, 3, 0, 31})
		f.Add(byte(i+2), []byte(said), []byte{byte(len(said) - 1)}, []byte{40})
	}
	all, lab := unseenWays(), newUnseenLab(f)
	f.Fuzz(func(t *testing.T, which byte, said, sizes, pauses []byte) {
		if len(said) > 4<<10 || len(sizes) > 16 || len(pauses) > 16 {
			return
		}
		w := all[int(which)%len(all)]
		synctest.Test(t, func(t *testing.T) {
			got, _ := lab.record(t, w, speech{said, sizes, pauses}, refuseAll())
			if why := takesForHTTP(got); why != "" {
				t.Errorf("%s: the origin got %q: %s", w.name, got, why)
			}
			if len(w.alpn) > 0 && got != "" {
				t.Errorf("%s: the origin got %q, which is not what was negotiated", w.name, got)
			}
			if !w.tls && helloOf([]byte(got)) != nil && bytes.HasPrefix(said, []byte(got)) { // or it is the proxy's own
				t.Errorf("%s: the origin got a ClientHello", w.name)
			}
		})
	})
}

// unseenSeeds are requests that one server or other takes, and what is none.
var unseenSeeds = []string{
	"GET /x HTTP/1.1\r\nHost: site.test\r\n\r\n",
	"GET  /x HTTP/1.1\r\nHost: site.test\r\n\r\n",
	"GET\t/x\tHTTP/1.1\r\nHost: site.test\r\n\r\n",
	"get /x http/1.1\nhost: site.test\n\n",
	"\r\n\n \x01\x1fGET /x HTTP/1.1\r\n\r\n",
	"GET /x\r\n",
	"GET /\xff HTTP/1.1\r\n\r\n",
	"FOO /\xff HTTP/1.1\r\n\r\n",
	"GET x://\x80 HTTP/1.1 RTSP/1.0\r\n\r\n",
	"GET /x RTSP/1.0\r\n\r\n",
	"CONNECT site.test:443\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	"OPTIONS rtsp://site.test/ RTSP/1.0\r\n\r\n",
	"0032git-upload-pack /project.git\x00host=site.test\x00",
	"\x00\x01binary", "PING\r\n", "EHLO site.test\r\n", "\x16\x03\x01", "HTTP/1.1 200 OK\r\n\r\n",
	smallHello("site.test"), smallHello("site.test."), "\x15\x03\x01\x00\x02\x01\x5a" + smallHello("site.test"),
}

// What a server could read as HTTP gets past no hook, however it is spelled and however slowly it comes.
func TestR61_NothingUnseen(t *testing.T) {
	lab := newUnseenLab(t)
	for _, w := range unseenWays() {
		t.Run(w.name, func(t *testing.T) {
			for _, said := range unseenSeeds[:12] {
				for _, s := range []speech{
					{said: []byte(said)},
					{[]byte(said), []byte{4}, []byte{3}},                    // longer than one may wait elsewhere
					{[]byte(said), []byte{byte(len(said) - 1)}, []byte{60}}, // longer than HeadTimeout
				} {
					synctest.Test(t, func(t *testing.T) {
						done, flows := doneHook()
						got, heard := lab.record(t, w, s, done, refuseAll())
						if got != "" {
							t.Errorf("%q, pauses %v: the origin got %q", said, s.pauses, got)
						}
						refusal := strings.HasPrefix(heard, "HTTP/1.1 4") || strings.HasPrefix(heard, "HTTP/1.1 505")
						if slices.Equal(w.alpn, []string{"h2"}) {
							refusal = strings.HasSuffix(heard, "\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01")
						}
						if s.pauses == nil && !refusal && !strings.HasPrefix(said, "PRI") {
							t.Errorf("%q: the client got %q", said, heard)
						}
						for f := range drained(flows) {
							if f.Err == nil && f.Method != "CONNECT" {
								t.Errorf("%q: flow %s %s without an error", said, f.Method, f.URL)
							}
						}
					})
				}
			}
		})
	}
}

// drained yields what is in c.
func drained[T any](c chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for len(c) > 0 && yield(<-c) {
		}
	}
}

// Whatever is neither HTTP nor TLS is put to the ConnHooks as Other, inside TLS too, even if a hook has
// answered Intercept; without an answer it is relayed.
func TestR61_OtherIsAsked(t *testing.T) {
	lab := newUnseenLab(t)
	const said = "\x00binary"
	for _, w := range unseenWays() {
		if len(w.alpn) > 0 {
			continue
		}
		for _, first := range []mitm.Action{mitm.Default, mitm.Intercept} {
			for _, answer := range []mitm.Action{mitm.Default, mitm.Intercept, mitm.Tunnel, mitm.Reject} {
				t.Run(w.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						asked := 0
						got, _ := lab.record(t, w, speech{said: []byte(said)}, refuseAll(),
							mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
								if c.Protocol != mitm.Other {
									return first, nil
								}
								asked++
								return answer, nil
							}))
						if want := map[bool]string{true: "", false: said}[answer == mitm.Reject]; asked != 1 || got != want {
							t.Errorf("%v: asked %d times; the origin got %q, want %q", answer, asked, got, want)
						}
					})
				})
			}
		}
	}
}

// A ConnHook that chooses to tunnel what is slow gets it relayed; without one its flow ends with ErrUnread.
func TestR61_SlowPrefix(t *testing.T) {
	lab := newUnseenLab(t)
	s := speech{[]byte("hello you\n"), []byte{5, 5}, []byte{40, 0}}
	for _, w := range unseenWays() {
		if len(w.alpn) > 0 {
			continue
		}
		for _, tunnels := range []bool{false, true} {
			t.Run(w.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					got, _ := lab.record(t, w, s, done, refuseAll(), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						if tunnels && c.Protocol == mitm.Other {
							return mitm.Tunnel, nil
						}
						return mitm.Default, nil
					}))
					if want := map[bool]string{true: string("hello you\n")}[tunnels]; got != want {
						t.Errorf("the origin got %q, want %q", got, want)
					}
					f := <-flows
					if f.Tunnel != tunnels || errors.Is(f.Err, mitm.ErrUnread) == tunnels {
						t.Errorf("tunnel %v, %v", f.Tunnel, f.Err)
					}
				})
			})
		}
	}
}

// What has no end is no way past hooks: neither what servers skip ahead of a request line, nor a line that
// is too long.
func TestR61_EndlessPrefix(t *testing.T) {
	lab := newUnseenLab(t)
	for name, said := range map[string]string{
		"empty lines":   strings.Repeat("\r\n", 200_000) + "GET /x HTTP/1.1\r\n\r\n",
		"blanks":        strings.Repeat(" ", 400_000) + "GET /x HTTP/1.1\r\n\r\n",
		"control bytes": strings.Repeat("\x01", 400_000) + "GET /x HTTP/1.1\r\n\r\n",
		"odd method":    "G@T " + strings.Repeat("x", 400_000) + " HTTP/1.1\r\n\r\n",
	} {
		for _, w := range unseenWays() {
			if len(w.alpn) > 0 {
				continue
			}
			t.Run(name+" "+w.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					got, _ := lab.record(t, w, speech{said: []byte(said)}, done, refuseAll())
					if got != "" {
						t.Errorf("the origin got %.40q", got)
					}
					if f := <-flows; f.Err == nil || f.Tunnel {
						t.Errorf("flow: %v, tunnel %v", f.Err, f.Tunnel)
					}
				})
			})
		}
	}
}

// An origin that breaks off while a request has begun does not make it something else, wherever a hook
// would have that go.
func TestR61_OriginBreaksOff(t *testing.T) {
	for _, begun := range []string{"GET /x HT", "GET", "PRI * HTTP/2.0\r\n"} {
		t.Run(begun, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				done, flows := doneHook()
				var recorded bytes.Buffer
				near, far := memPipe()
				other, recorder := memPipe()
				read := make(chan bool)
				go func() {
					defer close(read)
					io.Copy(&recorded, recorder)
				}()
				dials := map[string]net.Conn{"origin.test:80": near, "other.test:80": other}
				p := &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: "origin.test:80"})}
				p.Dial = func(_ context.Context, _, addr string) (net.Conn, error) { return dials[addr], nil }
				p.Hooks = []mitm.Hook{done, refuseAll(), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
					if c.Protocol == mitm.Other {
						c.Destination.Addr = "other.test:80"
					}
					return mitm.Default, nil
				})}
				client, server := memPipe()
				go p.ServeConn(t.Context(), server)
				io.WriteString(client, begun)
				synctest.Wait()
				far.SetLinger(0)
				far.Close()
				synctest.Wait()
				io.WriteString(client, "TP/1.1\r\nHost: h\r\n\r\n") // it fails by now
				if f := <-flows; !errors.Is(f.Err, syscall.ECONNRESET) || f.Tunnel {
					t.Errorf("flow: %v, tunnel %v", f.Err, f.Tunnel)
				}
				client.Close()
				p.Close()
				other.Close()
				recorder.Close()
				<-read
				if recorded.Len() > 0 {
					t.Errorf("the other origin got %q", recorded.String())
				}
			})
		})
	}
}

// That one server has spoken first says nothing about the one to which a hook redirects its client: what
// could still become HTTP is not relayed there, unless the hook answers Tunnel.
func TestR61_RedirectedServerFirst(t *testing.T) {
	for _, begun := range []string{"", "GET /x HT", "\x00binary"} {
		for _, answer := range []mitm.Action{mitm.Default, mitm.Intercept, mitm.Tunnel} {
			t.Run(begun, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					done, flows := doneHook()
					near, far := memPipe()
					other, recorder := memPipe()
					dials := map[string]net.Conn{"origin.test:80": near, "other.test:80": other}
					p := &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: "origin.test:80"})}
					p.Dial = func(_ context.Context, _, addr string) (net.Conn, error) { return dials[addr], nil }
					p.Hooks = []mitm.Hook{done, refuseAll(), mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
						if c.Protocol != mitm.Other {
							return mitm.Default, nil
						}
						c.Destination.Addr = "other.test:80"
						return answer, nil
					})}
					client, server := memPipe()
					go p.ServeConn(t.Context(), server)
					io.WriteString(client, begun)
					synctest.Wait()
					io.WriteString(far, "220 ready\r\n")
					synctest.Wait()
					io.WriteString(client, "TP/1.1\r\n\r\n") // which fails where it is refused
					client.CloseWrite()
					synctest.Wait()
					passes := answer == mitm.Tunnel || begun == "\x00binary"
					if got, want := recorder.unread(), map[bool]string{true: begun + "TP/1.1\r\n\r\n"}[passes]; got != want {
						t.Errorf("%v: the other origin got %q, want %q", answer, got, want)
					}
					recorder.Close()
					if f := <-flows; f.Tunnel != passes || !passes && !errors.Is(f.Err, mitm.ErrUnread) {
						t.Errorf("%v: flow: tunnel %v, %v", answer, f.Tunnel, f.Err)
					}
					client.Close()
					far.Close()
					p.Close()
				})
			})
		}
	}
}
