package mitm_test

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"example.com/mitm"
)

// mostHeld is how much of the content of one stream the proxy, and the buffers of the
// connections, may hold.
const mostHeld = 1 << 20

// inBubbles runs f in synctest bubbles, with an origin of either version.
func inBubbles(t *testing.T, f func(t *testing.T, o *flowOrigin, i *interception)) {
	t.Helper()
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) { inBubbleWith(t, p, version, f) })
}

func inBubbleWith(t *testing.T, p *mitm.Proxy, version int, f func(t *testing.T, o *flowOrigin, i *interception)) {
	synctest.Test(t, func(t *testing.T) {
		o := &flowOrigin{version: version, release: make(chan struct{})}
		o.free = sync.OnceFunc(func() { close(o.release) })
		config, serve := &tls.Config{}, func(c *tls.Conn) { o.serve1(newTimelessPeer(t, c)) }
		if version == 2 {
			config.NextProtos = []string{"h2"}
			serve = func(c *tls.Conn) { o.serve2(newH2Peer(t, c, false)) }
		}
		i := inMemoryTLS(t, p, config, serve)
		defer o.free()
		f(t, o, i)
	})
}

// flowOrigin answers a GET for /4096 with so many bytes, a POST with "ok" when it is
// complete. Content for /stall is not read, and /never not answered, until the release.
type flowOrigin struct {
	version int
	release chan struct{}
	free    func() // closes release

	sent, got  atomic.Int64 // content
	open, most atomic.Int64 // requests not over
	frames     atomic.Int64 // DATA
}

func (o *flowOrigin) begin() {
	if n := o.open.Add(1); n > o.most.Load() {
		o.most.Store(n)
	}
}

func (o *flowOrigin) serve1(c *peer) {
	for head, err := c.tryHead(); err == nil; head, err = c.tryHead() {
		if o.begin(); !o.exchange1(c, head) {
			o.open.Add(-1)
			return
		}
		o.open.Add(-1)
	}
}

func (o *flowOrigin) exchange1(c *peer, head string) bool {
	if strings.Contains(head, " /never ") {
		<-o.release
		return false
	}
	if n := int64(0); strings.HasPrefix(head, "GET") {
		fmt.Sscanf(head, "GET /%d", &n)
		c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n))
		for left := n; left > 0; left -= 1 << 10 {
			k, err := c.Conn.Write(make([]byte, min(left, 1<<10)))
			if o.sent.Add(int64(k)); err != nil {
				return false
			}
		}
		return true
	}
	switch {
	case strings.Contains(head, " /stall "):
		<-o.release
	case strings.Contains(head, " /watch "): // it stalls too, but notices who leaves
		if _, err := c.r.Peek(1); err != nil {
			return false
		}
		<-o.release
	}
	got := gotRequest{fields: parseFields(head)}
	if c.readContent(&got) != nil {
		return false
	}
	o.got.Add(int64(len(got.content)))
	c.send(ok200)
	return true
}

func (o *flowOrigin) serve2(c *h2peer) {
	var open []*h2stream
	left := map[*h2stream]int64{}
	for c.step() {
		for _, s := range c.fresh {
			o.begin()
			open = append(open, s)
			var n int64
			fmt.Sscanf(valueOf(s.head, ":path"), "/%d", &n)
			left[s] = n
			if s.stalled = valueOf(s.head, ":path") == "/stall"; s.stalled {
				go func() {
					<-o.release
					c.number(frameWindow, s.id, 1<<30)
				}()
			}
			if valueOf(s.head, ":method") == "GET" && valueOf(s.head, ":path") != "/never" {
				c.headers(s.id, n == 0, ":status", "200")
			}
		}
		c.fresh = nil
		open = slices.DeleteFunc(open, func(s *h2stream) bool { return o.advance2(c, s, left) })
	}
	o.open.Add(-int64(len(open)))
}

// advance2 goes on with s as far as that is possible, and reports whether it is over.
func (o *flowOrigin) advance2(c *h2peer, s *h2stream, left map[*h2stream]int64) bool {
	for s.reset == nil && left[s] > 0 && c.room(s.id) > 0 {
		k := min(c.room(s.id), left[s])
		left[s] -= k
		c.data(s.id, left[s] == 0, strings.Repeat("x", int(k)))
		o.sent.Add(k)
	}
	if !s.over() || s.reset == nil && (left[s] > 0 || valueOf(s.head, ":path") == "/never") {
		return false
	}
	if s.reset == nil && valueOf(s.head, ":method") == "POST" {
		c.answer(s, "ok")
	}
	o.got.Add(int64(s.body.Len()))
	o.frames.Add(int64(s.frames))
	o.open.Add(-1)
	return true
}

// A client that does not open its windows holds the origin back; when it does, all comes.
func TestR51_Download(t *testing.T) {
	const total = 32 << 20
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2(settingWindow, 1000)
		c.shut = true
		s := c.begin(true, ":path", fmt.Sprint("/", total))
		c.until(func() bool { return s.body.Len() >= 1000 })
		synctest.Wait()
		if c.ping(); s.body.Len() != 1000 {
			t.Errorf("%d bytes came for a window of 1000", s.body.Len())
		}
		if sent := o.sent.Load(); sent > mostHeld {
			t.Errorf("the origin could send %d bytes", sent)
		}
		c.shut = false
		c.number(frameWindow, 0, 1000)
		c.number(frameWindow, s.id, 1<<20)
		if c.want(s, "200"); s.body.Len() != total {
			t.Errorf("%d bytes came of %d", s.body.Len(), total)
		}
	})
}

// fill sends content as far as windows allow, until nothing more is let through.
func (p *h2peer) fill(s *h2stream) (sent int64) {
	for {
		for p.room(s.id) > 0 {
			k := p.room(s.id)
			p.data(s.id, false, strings.Repeat("x", int(k)))
			sent += k
		}
		synctest.Wait()
		if p.ping(); p.room(s.id) <= 0 {
			return sent
		}
	}
}

// An origin that does not read holds the client back.
func TestR51_Upload(t *testing.T) {
	const total = 32 << 20
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		s := c.begin(false, ":method", "POST", ":path", "/stall", "content-length", fmt.Sprint(total))
		sent := c.fill(s)
		if sent > mostHeld {
			t.Errorf("the client could send %d bytes", sent)
		}
		o.free()
		c.pour(s.id, total-sent, true, nil)
		if c.want(s, "200"); o.got.Load() != total {
			t.Errorf("%d bytes came of %d", o.got.Load(), total)
		}
	})
}

// Streams that nobody reads leave room for others on the same client connection.
func TestR51_StalledDownloads(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		var stalled []*h2stream
		for range 10 {
			s := c.begin(true, ":path", "/16000000")
			s.stalled = true
			stalled = append(stalled, s)
		}
		for _, s := range stalled {
			c.until(func() bool { return s.body.Len() == 65535 })
		}
		for range 3 {
			s := c.get(":path", "/1000000")
			if c.want(s, "200"); s.body.Len() != 1e6 {
				t.Errorf("%d bytes", s.body.Len())
			}
		}
		if sent := o.sent.Load(); sent > 10*mostHeld {
			t.Errorf("the origin could send %d bytes", sent)
		}
	})
}

// Uploads that the origin does not take leave room for others on the same connection.
func TestR51_StalledUploads(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		var stalled []*h2stream
		for range 30 {
			s := c.begin(false, ":method", "POST", ":path", "/stall")
			c.fill(s)
			stalled = append(stalled, s)
		}
		s := c.begin(false, ":method", "POST", ":path", "/read")
		if c.room(s.id) <= 0 {
			t.Fatal("stalled uploads leave no window for another")
		}
		c.pour(s.id, 1e6, true, nil)
		c.want(s, "200")
		for _, s := range stalled {
			c.cancel(s, codeCancel)
		}
	})
}

// Nor do they stand in the way of other clients that use the same origin connection.
func TestR51_OtherClients(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		one, two := i.h2(), i.h2()
		for range 4 {
			s := one.begin(true, ":path", "/16000000")
			s.stalled = true
			one.until(func() bool { return s.body.Len() == 65535 })
			one.fill(one.begin(false, ":method", "POST", ":path", "/stall"))
		}
		for range 3 {
			s := two.get(":path", "/1000000")
			if two.want(s, "200"); s.body.Len() != 1e6 {
				t.Errorf("%d bytes", s.body.Len())
			}
			s = two.begin(false, ":method", "POST", ":path", "/read")
			two.pour(s.id, 1e6, true, nil)
			two.want(s, "200")
		}
	})
}
