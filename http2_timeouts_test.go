package mitm_test

import (
	"fmt"
	"testing"
	"time"

	"example.com/mitm"
)

// inSlowBubble is inBubbles with a minute's patience for content and idle connections, and
// a client.
func inSlowBubble(t *testing.T, f func(t *testing.T, c *h2peer, i *interception)) {
	t.Helper()
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		p.ContentTimeout, p.IdleTimeout = time.Minute, time.Minute
		inBubbleWith(t, p, version, func(t *testing.T, o *flowOrigin, i *interception) { f(t, i.h2(), i) })
	})
}

// wantSoon fails the test unless between one and two minutes have passed since start.
func wantSoon(t *testing.T, start time.Time) {
	t.Helper()
	if d := time.Since(start); d < time.Minute*15/16 || d > 2*time.Minute {
		t.Errorf("after %v, want 1 to 2 minutes", d)
	}
}

// An origin may think for longer than content may stand still, with and without content in
// the request.
func TestHTTP2_ResponseTimeout(t *testing.T) {
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		p.ContentTimeout, p.ResponseTimeout = time.Second, time.Minute
		inBubbleWith(t, p, version, func(t *testing.T, o *flowOrigin, i *interception) {
			c := i.h2()
			for _, content := range []string{"", "abc"} {
				start := time.Now()
				s := c.begin(content == "", ":method", "POST", ":path", "/never")
				if content != "" {
					c.data(s.id, true, content)
				}
				c.want(s, "504")
				wantSoon(t, start)
				c.want(c.get(":path", "/10"), "200")
			}
		})
	})
}

// A client that does not go on with its content, or does not take that of the response,
// loses the stream, and no other.
func TestHTTP2_ContentTimeout(t *testing.T) {
	inSlowBubble(t, func(t *testing.T, c *h2peer, _ *interception) {
		start := time.Now()
		s := c.begin(false, ":method", "POST", ":path", "/read")
		c.data(s.id, false, "abc")
		if got := c.wait(s).outcome(); got != "reset" && got != "408" {
			t.Errorf("upload: %s", got)
		}
		wantSoon(t, start)
		start = time.Now()
		s = c.begin(true, ":path", "/16000000")
		s.stalled = true
		c.want(s, "cut 200")
		wantSoon(t, start)
		c.want(c.get(":path", "/10"), "200")
	})
}

// A client that takes content slowly keeps its stream.
func TestHTTP2_SlowClient(t *testing.T) {
	inSlowBubble(t, func(t *testing.T, c *h2peer, _ *interception) {
		const total = 2 << 20
		s := c.begin(true, ":path", fmt.Sprint("/", total))
		s.stalled = true
		for n := 65535; n < total; n += 1 << 17 {
			if !c.until(func() bool { return s.body.Len() == n }) || s.over() {
				t.Fatalf("%d bytes, %s, %v", s.body.Len(), s.outcome(), c.gone)
			}
			time.Sleep(50 * time.Second)
			c.number(frameWindow, s.id, 1<<17)
		}
		c.want(s, "200")
	})
}

// A connection without streams is told to go when it is idle for too long.
func TestHTTP2_IdleTimeout(t *testing.T) {
	inSlowBubble(t, func(t *testing.T, c *h2peer, _ *interception) {
		c.want(c.get(":path", "/10"), "200")
		start := time.Now()
		c.until(func() bool { return false })
		if c.goAway == nil || c.goAway.code != 0 {
			t.Errorf("GOAWAY %v, %v", c.goAway, c.gone)
		}
		wantSoon(t, start)
	})
}

// A client that opens its connection and says nothing is not waited for either.
func TestHTTP2_Silent(t *testing.T) {
	inSlowBubble(t, func(t *testing.T, _ *h2peer, i *interception) {
		i.proxy.HeadTimeout = 0
		start := time.Now()
		nc := i.tls("h2")
		if n, err := nc.Read(make([]byte, 1<<10)); n == 0 && err == nil {
			t.Error("nothing was read")
		}
		for buf := make([]byte, 1<<10); ; {
			if _, err := nc.Read(buf); err != nil {
				break
			}
		}
		if d := time.Since(start); d > 15*time.Minute {
			t.Errorf("after %v", d)
		}
	})
}

// A client that takes nothing from its connection, though its windows are open, loses it.
func TestHTTP2_ClientStopsReading(t *testing.T) {
	inSlowBubble(t, func(t *testing.T, c *h2peer, _ *interception) {
		const total = 16000000
		s := c.begin(true, ":path", fmt.Sprint("/", total))
		c.number(frameWindow, 0, 1<<25)
		c.number(frameWindow, s.id, 1<<25)
		time.Sleep(3 * time.Minute)
		c.until(func() bool { return false })
		if s.over() || s.body.Len() >= total {
			t.Errorf("%s, %d bytes", s.outcome(), s.body.Len())
		}
	})
}
