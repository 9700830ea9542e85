package mitm_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// What goes out together with other things is not held back for them: these tests are about the
// moment at which bytes of HTTP/2 leave.

// A response is with its client before hooks that see its end are through.
func TestHTTP2_SlowDoneHook(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		got := make(chan bool)
		p.Hooks = append(p.Hooks, mitm.OnDone(func(*mitm.Flow) { <-got }))
		addr, roots := handlerOrigin(t, version, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") })
		c := intercept(t, p, addr, roots).h2()
		s := c.begin(true)
		if !c.until(func() bool { return s.body.Len() == len("hello") }) {
			t.Errorf("%s; %v", s.outcome(), c.gone)
		}
		close(got)
		c.want(s, "200")
	})
}

// A connection is closed when its client has all that was sent, however slow that is.
func TestHTTP2_ShutdownSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const total = 100000 // more than the connection holds
		p := new(mitm.Proxy)
		c := inMemoryTLS(t, p, &tls.Config{NextProtos: []string{"h2"}}, func(tc *tls.Conn) {
			o := newH2Peer(t, tc, false)
			for s := o.accept(); s != nil; s = o.accept() {
				o.headers(s.id, false, ":status", "200")
				o.pour(s.id, total, true, nil)
			}
		}).h2(settingWindow, 1<<24)
		c.number(frameWindow, 0, 1<<24)
		c.shut = true
		s := c.begin(true)
		synctest.Wait()
		ended := make(chan error, 1)
		go func() { ended <- p.Shutdown(t.Context()) }()
		time.Sleep(20 * time.Second)
		if c.want(s, "200"); s.body.Len() != total {
			t.Errorf("%d bytes; %v", s.body.Len(), c.gone)
		}
		c.nc.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// An origin that takes nothing from its connection, though its windows are open, is a timeout.
func TestHTTP2_OriginStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &mitm.Proxy{ContentTimeout: time.Minute}
		release := make(chan bool)
		defer close(release)
		c := inMemoryTLS(t, p, &tls.Config{NextProtos: []string{"h2"}}, func(tc *tls.Conn) {
			o := newH2Peer(t, tc, false, settingWindow, 1<<28)
			o.number(frameWindow, 0, 1<<28)
			o.accept()
			<-release
		}).h2()
		s := c.begin(false, ":method", "POST")
		start := time.Now()
		for left := 100000; left > 0 && c.until(func() bool { return c.room(s.id) > 0 || s.over() }) && !s.over(); {
			n := min(int(c.room(s.id)), left, 1<<14)
			left -= n
			c.data(s.id, left == 0, strings.Repeat("x", n))
		}
		c.want(s, "504")
		wantSoon(t, start)
	})
}

// A connection inside a tunnel of HTTP/2 may rest for longer than its writes may take.
func TestHTTP2_TunnelRests(t *testing.T) {
	cert, roots := exampleCert()
	synctest.Test(t, func(t *testing.T) {
		p := &mitm.Proxy{ContentTimeout: time.Second}
		i := inMemoryTLS(t, p, &tls.Config{NextProtos: []string{"h2"}}, func(tc *tls.Conn) {
			o := newH2Peer(t, tc, false)
			for s := o.accept(); s != nil; s = o.accept() {
				o.answer(s, "ok")
			}
		})
		client, server := memPipe()
		var running sync.WaitGroup
		running.Go(func() {
			p.ServeConn(t.Context(), tls.Server(server, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}))
		})
		c := newH2Peer(t, tls.Client(client, &tls.Config{ServerName: "example.com", RootCAs: roots, NextProtos: []string{"h2"}}), true)
		s := c.connect("example.com:443")
		inner, outer := memPipe()
		running.Go(func() { c.join(s, outer) })
		inside := newH2Peer(t, tls.Client(inner, &tls.Config{ServerName: "example.com", RootCAs: i.roots, NextProtos: []string{"h2"}}), true)
		for range 2 {
			inside.want(inside.get(), "200")
			time.Sleep(10 * time.Second)
		}
		inner.Close()
		client.Close()
		running.Wait()
	})
}

// White space around values stays behind: HTTP/2 has none (RFC 9113, section 8.2.1).
func TestHTTP2_OuterSpace(t *testing.T) {
	seen := make(chan string, 1)
	addr, roots := h2Origin(t, func(c *h2peer) {
		for s := c.accept(); s != nil; s = c.accept() {
			seen <- valueOf(s.head, "x-hook")
			c.answer(s, "ok", "x-origin", " v\t")
		}
	})
	hook := mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
		req.Header["X-Hook"] = []string{" q\t"}
		return nil, nil
	})
	s := intercept(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}}, addr, roots).h2().get()
	if there, here := receive(t, seen), valueOf(s.head, "x-origin"); there != "q" || here != "v" {
		t.Errorf("request %q, response %q", there, here)
	}
}
