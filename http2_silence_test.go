package mitm_test

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// inQuietBubble gives f a client whose origin answers the first request of each connection with the
// number of the connection, and then serves it by after.
func inQuietBubble(t *testing.T, after func(c *h2peer), f func(t *testing.T, c *h2peer)) {
	inBubble(t, func(t *testing.T, p *mitm.Proxy) {
		var conns atomic.Int32
		i := inMemoryTLS(t, p, &tls.Config{NextProtos: []string{"h2"}}, func(tc *tls.Conn) {
			n, c := conns.Add(1), newH2Peer(t, tc, false)
			if s := c.accept(); s != nil {
				c.answer(s, fmt.Sprint(n))
				after(c)
			}
		})
		f(t, i.h2())
	})
}

// giveUp begins a request and waits for half a second.
func (p *h2peer) giveUp() {
	s := p.begin(true, ":path", "/slow")
	time.Sleep(500 * time.Millisecond)
	p.cancel(s, codeCancel)
	synctest.Wait()
}

// A connection that is gone without a word takes no more requests after a while, though each client
// gives up before the proxy would.
func TestHTTP2Origin_Gone(t *testing.T) {
	inQuietBubble(t, func(c *h2peer) { time.Sleep(time.Hour) }, func(t *testing.T, c *h2peer) {
		c.want(c.get(), "200")
		time.Sleep(time.Minute)
		for range 3 {
			c.giveUp()
		}
		if s := c.get(); s.outcome() != "200" || s.body.String() != "2" {
			t.Errorf("%s %q, want an answer of the second connection", s.outcome(), s.body.String())
		}
	})
}

// A connection whose origin thinks is not gone.
func TestHTTP2Origin_Thinks(t *testing.T) {
	answer := func(c *h2peer) {
		for s := c.accept(); s != nil; s = c.accept() {
			if valueOf(s.head, ":path") != "/slow" {
				c.answer(s, "again")
			}
		}
	}
	inQuietBubble(t, answer, func(t *testing.T, c *h2peer) {
		for _, content := range []string{"1", "again", "again"} {
			if s := c.get(); s.outcome() != "200" || s.body.String() != content {
				t.Errorf("%s %q, want %q", s.outcome(), s.body.String(), content)
			}
			time.Sleep(time.Minute)
			c.giveUp()
			time.Sleep(time.Minute)
		}
	})
}
