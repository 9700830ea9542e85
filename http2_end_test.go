package mitm_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// waiting is an origin that begins a response and waits for the end of the request or of the
// proxy's interest, of which it tells.
func waiting(t *testing.T, version int) (begun chan string, ended chan error, handler http.HandlerFunc) {
	begun, ended = make(chan string, 8), make(chan error, 8)
	return begun, ended, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/good" {
			fmt.Fprint(w, "ok")
			return
		}
		if req.URL.Path == "/slow" {
			w.WriteHeader(200)
			w.Write([]byte("abc"))
			http.NewResponseController(w).Flush()
		}
		begun <- req.URL.Path
		select {
		case <-req.Context().Done():
			ended <- nil
		case <-time.After(patience):
			ended <- errors.New("the origin was not told")
		}
	}
}

// A client that resets a stream is heard at the origin; its other streams go on.
func TestHTTP2_ClientResets(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		begun, ended, handler := waiting(t, version)
		addr, roots := handlerOrigin(t, version, handler)
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := intercept(t, p, addr, roots).h2()
		for _, path := range []string{"/slow", "/silent"} {
			s := c.begin(true, ":path", path)
			if path == "/slow" {
				c.until(func() bool { return s.body.Len() == 3 })
			}
			receive(t, begun)
			c.cancel(s, codeCancel)
			if err := receive(t, ended); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if f := nextFlow(t, flows); !errors.Is(f.Err, mitm.ErrClientGone) {
				t.Errorf("%s: flow %v", path, f.Err)
			}
			c.want(c.get(":path", "/good"), "200")
			nextFlow(t, flows)
		}
	})
}

// A client that is gone is heard, too.
func TestHTTP2_ClientGone(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		begun, ended, handler := waiting(t, version)
		addr, roots := handlerOrigin(t, version, handler)
		c := intercept(t, p, addr, roots).h2()
		c.begin(true, ":path", "/silent")
		s := c.begin(true, ":path", "/slow")
		c.until(func() bool { return s.body.Len() == 3 })
		receive(t, begun)
		receive(t, begun)
		c.nc.Close()
		for range 2 {
			if err := receive(t, ended); err != nil {
				t.Error(err)
			}
		}
	})
}

// An upload that the client cuts short does not look complete to the origin.
func TestHTTP2_CutUpload(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		c := intercept(t, p, addr, roots).h2()
		for _, fields := range [][]string{{":method", "POST"}, {":method", "POST", "content-length", "100"}} {
			s := c.begin(false, fields...)
			c.data(s.id, false, "abc")
			c.ping()
			c.cancel(s, codeCancel)
			c.want(c.get(":path", "/last"), "200")
			wantOnly(t, seen)
		}
	})
}

// A response that the origin cuts short does not look complete to the client.
func TestHTTP2_CutResponse(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		for _, head := range []string{"Content-Length: 100", "Transfer-Encoding: chunked", "X-Delimited-By: close"} {
			addr, roots := h1Origin(t, func(c *peer) {
				c.tryHead()
				body := "abc"
				if strings.Contains(head, "chunked") {
					body = "3\r\nabc\r\n"
				}
				c.send("HTTP/1.1 200 OK\r\n" + head + "\r\n\r\n" + body)
				c.Conn.(interface{ NetConn() net.Conn }).NetConn().Close() // without close_notify
			})
			c := intercept(t, &mitm.Proxy{Hooks: p.Hooks}, addr, roots).h2()
			c.want(c.get(), "cut 200")
		}
	})
}

func TestHTTP2_OriginResets(t *testing.T) {
	addr, roots := h2Origin(t, func(c *h2peer) {
		for s := c.accept(); s != nil; s = c.accept() {
			switch path := valueOf(s.head, ":path"); path {
			case "/good":
				c.answer(s, "ok")
			case "/early":
				c.cancel(s, codeCancel)
			case "/mid":
				c.headers(s.id, false, ":status", "200", "content-length", "100")
				c.data(s.id, false, "abc")
				c.cancel(s, codeProtocol)
			case "/gone":
				c.headers(s.id, false, ":status", "200")
				c.data(s.id, false, "abc")
				c.nc.Close()
				return
			}
		}
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		c := intercept(t, p, addr, roots).h2()
		for _, test := range [][2]string{{"/early", "502"}, {"/good", "200"}, {"/mid", "cut 200"}, {"/good", "200"}, {"/gone", "cut 200"}, {"/good", "200"}} {
			c.want(c.get(":path", test[0]), test[1])
			if f := nextFlow(t, flows); (f.Err == nil) != (test[1] == "200") {
				t.Errorf("%s: flow %v", test[0], f.Err)
			}
		}
	})
}

// A final response while the request goes on, and RST_STREAM with NO_ERROR (RFC 9113,
// section 8.1): the client has the response, and is told to stop.
func TestHTTP2_EarlyResponse(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots := h1Origin(t, func(c *peer) {
			c.tryHead()
			c.send("HTTP/1.1 413 Content Too Large\r\nDate: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!")
			c.rest()
		})
		if version == 2 {
			addr, roots = h2Origin(t, func(c *h2peer) {
				for s := c.accept(); s != nil; s = c.accept() {
					c.headers(s.id, false, ":status", "413")
					c.data(s.id, true, "no!")
					c.cancel(s, 0)
				}
			})
		}
		c := intercept(t, p, addr, roots).h2()
		for range 2 {
			s := c.begin(false, ":method", "POST")
			c.data(s.id, false, "abc")
			c.until(func() bool { return s.ended || s.reset != nil && s.head == nil })
			if got := s.outcome(); got != "413" && got != "cut 413" || s.body.String() != "no!" {
				t.Errorf("%s %q", got, s.body.String())
			}
		}
	})
}

// After GOAWAY what runs is finished, and what is new goes elsewhere.
func TestHTTP2_GoAway(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		var conns atomic.Int32
		proceed := make(chan struct{})
		addr, roots := h2Origin(t, func(c *h2peer) {
			n := conns.Add(1)
			var slow *h2stream
			for s := c.accept(); s != nil; s = c.accept() {
				switch {
				case valueOf(s.head, ":path") != "/slow":
					c.answer(s, fmt.Sprint(n))
				case slow == nil:
					slow = s
					c.headers(s.id, false, ":status", "200")
					c.data(s.id, false, "abc")
					c.frame(frameGoAway, 0, 0, []byte{0, 0, 0, byte(s.id), 0, 0, 0, 0})
					go func() {
						<-proceed
						c.frame(frameData, endStream, s.id, []byte("def"))
					}()
				}
			}
		})
		c := intercept(t, p, addr, roots).h2()
		c.want(c.get(), "200")
		slow := c.begin(true, ":path", "/slow")
		c.until(func() bool { return slow.body.Len() == 3 })
		for range 3 {
			if s := c.get(); s.outcome() != "200" {
				t.Errorf("after GOAWAY: %s", s.outcome())
			} else if got := s.body.String(); got == "1" && s.id > slow.id+2 {
				t.Errorf("a request after GOAWAY went to connection %s", got)
			}
		}
		close(proceed)
		if c.want(slow, "200"); slow.body.String() != "abcdef" {
			t.Errorf("%q", slow.body.String())
		}
	})
}

// A request that the origin says it has not looked at is sent again, elsewhere, whatever its
// method; one that it may have looked at is not.
func TestHTTP2_Retry(t *testing.T) {
	for name, test := range map[string]struct {
		refuse  func(c *h2peer, s *h2stream)
		retried bool
	}{
		"GOAWAY before it":  {func(c *h2peer, s *h2stream) { c.frame(frameGoAway, 0, 0, []byte{0, 0, 0, 1, 0, 0, 0, 0}) }, true},
		"REFUSED_STREAM":    {func(c *h2peer, s *h2stream) { c.cancel(s, codeRefused) }, true},
		"CANCEL":            {func(c *h2peer, s *h2stream) { c.cancel(s, codeCancel) }, false},
		"PROTOCOL_ERROR":    {func(c *h2peer, s *h2stream) { c.cancel(s, codeProtocol) }, false},
		"connection closed": {func(c *h2peer, s *h2stream) { c.nc.Close() }, false},
		"GOAWAY after it": {func(c *h2peer, s *h2stream) {
			c.frame(frameGoAway, 0, 0, []byte{0, 0, 0, byte(s.id), 0, 0, 0, 0})
			c.nc.Close()
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				for _, method := range []string{"GET", "POST"} {
					var asked atomic.Int32
					addr, roots := h2Origin(t, func(c *h2peer) {
						for s := c.accept(); s != nil; s = c.accept() {
							if valueOf(s.head, ":path") != "/first" && asked.Add(1) == 1 {
								test.refuse(c, s)
							} else {
								c.answer(s, "ok")
							}
						}
					})
					c := intercept(t, &mitm.Proxy{Hooks: p.Hooks}, addr, roots).h2()
					c.want(c.get(":path", "/first"), "200")
					s := c.wait(c.begin(true, ":method", method))
					switch retried := asked.Load() > 1; {
					case test.retried && s.outcome() != "200", !test.retried && method == "POST" && retried:
						t.Errorf("%s: %s, asked %d times", method, s.outcome(), asked.Load())
					case !retried && s.outcome() != "502":
						t.Errorf("%s: %s", method, s.outcome())
					}
				}
			})
		})
	}
}

// Shutdown tells HTTP/2 clients by GOAWAY, lets what runs finish, and takes nothing new.
func TestHTTP2_Shutdown(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		t.Parallel() // clients are given a second to go
		proceed := make(chan struct{})
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, req *http.Request) {
			http.NewResponseController(w).Flush()
			<-proceed
			fmt.Fprint(w, "late")
		})
		i := intercept(t, p, addr, roots)
		c, idle := i.h2(), i.h2()
		s := c.begin(true)
		c.until(func() bool { return s.head != nil })
		idle.ping()
		ended := make(chan error)
		go func() { ended <- p.Shutdown(context.Background()) }()
		c.until(func() bool { return c.goAway != nil })
		if c.goAway == nil || c.goAway.code != 0 {
			t.Errorf("GOAWAY %v, %v", c.goAway, c.gone)
		}
		idle.until(func() bool { return false })
		if idle.goAway == nil || idle.goAway.code != 0 {
			t.Errorf("idle: GOAWAY %v, %v", idle.goAway, idle.gone)
		}
		close(proceed)
		if c.want(s, "200"); s.body.String() != "late" {
			t.Errorf("%q", s.body.String())
		}
		c.until(func() bool { return false })
		if err := receive(t, ended); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
}

// addressed is a connection that calls f when its address is asked for the nth time.
type addressed struct {
	net.Conn
	n atomic.Int32
	f func()
}

func (c *addressed) asked() {
	if c.n.Add(-1) == 0 {
		c.f()
	}
}

func (c *addressed) LocalAddr() net.Addr {
	c.asked()
	return c.Conn.LocalAddr()
}

func (c *addressed) RemoteAddr() net.Addr {
	c.asked()
	return c.Conn.RemoteAddr()
}

// Shutdown is not missed when it comes while net/http begins with a connection, for which it
// asks for the addresses several times, and does not know yet that it is HTTP/2.
func TestHTTP2_ShutdownEarly(t *testing.T) {
	told := 0
	for n, reached := int32(1), true; reached; n++ {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			p := new(mitm.Proxy)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			ended := make(chan error, 1)
			nc := &addressed{Conn: server, f: func() {
				go func() { ended <- p.Shutdown(ctx) }()
				synctest.Wait()
			}}
			nc.n.Store(n)
			go p.ServeConn(t.Context(), nc)
			c := newH2Peer(t, client, true)
			c.until(func() bool { return c.goAway != nil || nc.n.Load() > 0 && c.settings[settingMaxStreams] > 0 })
			if reached = nc.n.Load() <= 0; !reached {
				client.Close()
				p.Close()
				return
			}
			c.until(func() bool { return false })
			if err := <-ended; err != nil {
				t.Errorf("address %d: Shutdown: %v, GOAWAY %v, %v", n, err, c.goAway, c.gone)
			}
			if c.goAway != nil {
				told++
			}
		})
	}
	if told == 0 {
		t.Error("no client was told by GOAWAY")
	}
}

// Close cuts streams, so that they don't look complete.
func TestHTTP2_Close(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		begun, ended, handler := waiting(t, version)
		addr, roots := handlerOrigin(t, version, handler)
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(true, ":path", "/slow")
		c.until(func() bool { return s.body.Len() == 3 })
		receive(t, begun)
		p.Close()
		c.until(s.over)
		if s.ended {
			t.Error("the stream ended as if it was complete")
		}
		if err := receive(t, ended); err != nil {
			t.Error(err)
		}
	})
}
