package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"example.com/mitm"
	"golang.org/x/sys/unix"
)

// A server that speaks first is heard before the client has said anything.
func TestInsideBanner(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		for port, banner := range map[int]string{22: "SSH-2.0-OpenSSH_9.9\r\n", 25: "220 mail.test ESMTP\r\n"} {
			addr := ip.server(1, port)
			l.serve(t, addr, func(c *peer) {
				c.send(banner)
				io.Copy(c.Conn, c.r)
			})
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				l.start(t, p, w)
				c := l.client.dial(t, "", addr)
				if got := c.read(len(banner)); got != banner {
					t.Errorf("got %q", got)
				}
				const said = "GET / HTTP/1.1\r\n\r\n" // which is no request here
				c.send(said)
				if got := c.read(len(said)); got != said {
					t.Errorf("got %q", got)
				}
				c.closeWrite()
				c.closed()
				if f := nextFlow(t, flows); !f.Tunnel || f.Err != nil || f.Conn.Destination.Addr != addr {
					t.Errorf("flow to %s: tunnel %v, %v", f.Conn.Destination.Addr, f.Tunnel, f.Err)
				}
			})
		}
	})
}

// What is no HTTP passes both ways, byte for byte.
func TestInsideEcho(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 6379)
		l.serve(t, addr, func(c *peer) { io.Copy(c.Conn, c.r) })
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l.start(t, p, w)
			for _, said := range []string{"PING\r\n", "*1\r\n$4\r\nPING\r\n", "\x00\x01\x02\xff", "EHLO client.test\r\n"} {
				c := l.client.dial(t, "", addr)
				for range 3 {
					c.send(said)
					if got := c.read(len(said)); got != said {
						t.Errorf("got %q", got)
					}
				}
			}
		})
	})
}

// A request is one however it is cut.
func TestInsideSegments(t *testing.T) {
	l := newLab(t)
	const request = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 80)
		heads := l.web(t, addr)
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l.start(t, p, w)
			c := l.client.dial(t, "", addr)
			for i := range request {
				c.send(request[i : i+1])
			}
			wantBody(t, c, addr)
			if got := await(t, heads); got != request {
				t.Errorf("the origin got %q", got)
			}
		})
	})
}

// The name that a TLS client asks for is known to hooks, and it is no more than a name. The
// connection itself is between the client and the server.
func TestInsideTLS(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 443)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.TLS.ServerName+" "+r.Host)
		}))
		server.Listener.Close()
		server.Listener = l.listen(t, addr)
		server.StartTLS()
		defer server.Close()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			type seen struct {
				protocol   mitm.Protocol
				name, addr string
			}
			asked := make(chan seen, 8)
			p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				asked <- seen{c.Protocol, c.ServerName, c.Destination.Addr}
				return mitm.Default, nil
			}))
			l.start(t, p, w)
			for _, record := range []int{1 << 14, 50} {
				c := l.client.dial(t, "", addr)
				client := tls.Client(&splitHello{Conn: c.Conn, record: record}, &tls.Config{RootCAs: roots, ServerName: "example.com"})
				c = newPeer(t, client)
				c.send("GET / HTTP/1.1\r\nHost: elsewhere.test\r\nConnection: close\r\n\r\n")
				if _, body := c.response("GET"); body != "example.com elsewhere.test" {
					t.Errorf("got %q", body)
				}
				client.Close()
				want := []seen{{mitm.Unknown, "", addr}, {mitm.TLS, "example.com", addr}}
				if got := []seen{await(t, asked), await(t, asked)}; got[0] != want[0] || got[1] != want[1] {
					t.Errorf("the hook saw %v, want %v", got, want)
				}
			}
		})
	})
}

// splitHello writes its first TLS record as records of at most record bytes, and these in
// single bytes.
type splitHello struct {
	net.Conn
	record int
	done   bool
}

func (c *splitHello) Write(p []byte) (int, error) {
	if c.done {
		return c.Conn.Write(p)
	}
	c.done = true
	var out []byte
	for rest := p[5:]; len(rest) > 0; {
		n := min(len(rest), c.record)
		out = append(out, p[0], p[1], p[2], byte(n>>8), byte(n))
		out = append(out, rest[:n]...)
		rest = rest[n:]
	}
	for i := range out {
		if _, err := c.Conn.Write(out[i : i+1]); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// The end of one direction leaves the other open.
func TestInsideHalfClose(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		listening, talking := ip.server(1, 7), ip.server(1, 19)
		l.serve(t, listening, func(c *peer) {
			said, err := c.rest()
			if err == nil {
				c.send("you said " + said)
			}
		})
		heard := make(chan string, 1)
		l.serve(t, talking, func(c *peer) {
			c.send("that is all")
			c.closeWrite()
			said, err := c.rest()
			if err == nil {
				heard <- said
			}
		})
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			l.start(t, p, w)
			c := l.client.dial(t, "", listening)
			c.send("\x00ask")
			c.closeWrite()
			if got, err := c.rest(); got != "you said \x00ask" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			c = l.client.dial(t, "", talking)
			if got, err := c.rest(); got != "that is all" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			c.send("\x00and this")
			c.closeWrite()
			if got := await(t, heard); got != "\x00and this" {
				t.Errorf("the server got %q", got)
			}
		})
	})
}

// A reset of one side is one of the other, whatever was said before.
func TestInsideReset(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 7)
		accepted := make(chan *peer)
		ended := make(chan bool)
		defer close(ended)
		l.serve(t, addr, func(c *peer) { accepted <- c; <-ended })
		for name, said := range map[string]string{"at once": "", "in a request": "GET / HT", "in a hello": "\x16\x03\x01\x02\x00\x01", "later": "\x00binary"} {
			for _, byServer := range []bool{false, true} {
				t.Run(name+map[bool]string{true: " by the server"}[byServer], func(t *testing.T) {
					eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
						done, flows := doneHook()
						p.Hooks = append(p.Hooks, done)
						dialled := make(chan bool, 1)
						p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
							defer func() { dialled <- true }()
							return new(net.Dialer).DialContext(ctx, network, addr)
						}
						l.start(t, p, w)
						near := l.client.dial(t, "", addr)
						far := await(t, accepted)
						await(t, dialled) // one that is interrupted ends without a reset
						near.send(said)
						if name == "later" {
							far.read(len(said))
						}
						if byServer {
							near, far = far, near
						}
						near.Conn.(*net.TCPConn).SetLinger(0)
						near.Close()
						if got, err := far.rest(); got != "" && name == "at once" || !errors.Is(err, syscall.ECONNRESET) {
							t.Errorf("got %q, %v; want a reset", got, err)
						}
						if f := nextFlow(t, flows); !errors.Is(f.Err, syscall.ECONNRESET) {
							t.Errorf("flow: %v", f.Err)
						}
					})
				})
			}
		}
	})
}

// The destination is asked for once. That the kernel forgets it afterwards does no harm.
func TestInsideFlush(t *testing.T) {
	l := newLab(t)
	for _, w := range []way{redirect, dnat} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			addr, web := ip.server(1, 7), ip.server(1, 80)
			l.serve(t, addr, func(c *peer) { io.Copy(c.Conn, c.r) })
			heads := l.web(t, web)
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				l.start(t, p, w)
				raw, http := l.client.dial(t, "", addr), l.client.dial(t, "", web)
				for range 3 {
					said := strings.Repeat("\x00", 1000)
					raw.send(said)
					if got := raw.read(len(said)); got != said {
						t.Errorf("got %q", got)
					}
					http.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
					wantBody(t, http, web)
					await(t, heads)
					flushConntrack(t)
				}
			})
		})
	}
}

// flushConntrack makes the kernel forget all connections of the namespace, by a message
// IPCTNL_MSG_CT_DELETE that names none (linux/netfilter/nfnetlink_conntrack.h).
func flushConntrack(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	message := make([]byte, 20) // a header, and nfgenmsg with all zeros: any family
	binary.NativeEndian.PutUint32(message, 20)
	binary.NativeEndian.PutUint16(message[4:], 1<<8|2)
	binary.NativeEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	answer := make([]byte, 256)
	n := 0
	if _, err = unix.Write(fd, message); err == nil {
		n, err = unix.Read(fd, answer)
	}
	if err != nil || n < 20 {
		t.Fatal(n, err)
	}
	if code := -int32(binary.NativeEndian.Uint32(answer[16:])); code != 0 {
		t.Fatal(syscall.Errno(code))
	}
}
