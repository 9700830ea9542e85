package mitm_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// Floods of frames end the connection, or are no longer read, or cost nothing that lasts:
// 100,000 of them make the proxy no bigger. Others are served meanwhile.
func TestR57_Floods(t *testing.T) {
	for name, send := range map[string]func(c *h2peer) func() error{
		"CONTINUATION":       begun(make([]byte, 1000)),
		"empty CONTINUATION": begun(nil),
		"PING":               repeated(framePing, make([]byte, 8)),
		"SETTINGS":           repeated(frameSettings, nil),
		"SETTINGS of many":   repeated(frameSettings, slices.Repeat([]byte{0, 9, 0, 0, 0, 0}, 100)),
		"unknown frames":     repeated(0x0b, make([]byte, 8)),
		"windows":            repeated(frameWindow, []byte{0, 0, 0, 1}),
		"priorities": func(c *h2peer) func() error {
			return func() error {
				c.lastID = (c.lastID + 1) | 1
				return c.frame(framePriority, 0, c.lastID, make([]byte, 5))
			}
		},
		"resets of nothing": func(c *h2peer) func() error {
			c.get(":path", "/10")
			return func() error { return c.frame(frameReset, 0, c.lastID, make([]byte, 4)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubbleWith(t, &mitm.Proxy{}, 2, func(t *testing.T, _ *flowOrigin, i *interception) {
				c, other := i.h2(), i.h2()
				c.until(func() bool { return len(c.settings) > 1 })
				c.nc.SetWriteDeadline(time.Now().Add(time.Hour))
				next, before := send(c), heap()
				for range 100_000 {
					if next() != nil {
						break
					}
				}
				synctest.Wait()
				if grown := heap() - before; grown > 8<<20 {
					t.Errorf("%d bytes more", grown)
				}
				other.want(other.get(":path", "/10"), "200")
				c.nc.Close()
			})
		})
	}
}

// begun is a field section that does not end.
func begun(fragment []byte) func(c *h2peer) func() error {
	return func(c *h2peer) func() error {
		c.frame(frameHeaders, 0, 1, []byte{0x82})
		return func() error { return c.frame(frameContinuation, 0, 1, fragment) }
	}
}

func repeated(kind byte, payload []byte) func(c *h2peer) func() error {
	return func(c *h2peer) func() error {
		return func() error { return c.frame(kind, 0, 0, payload) }
	}
}

func heap() int64 {
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	return int64(mem.HeapAlloc)
}

// Empty DATA goes nowhere, and costs nothing that lasts.
func TestR57_EmptyData(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		s := c.begin(false, ":method", "POST", ":path", "/read")
		for range 20_000 {
			c.data(s.id, false, "")
		}
		c.data(s.id, true, "end")
		if c.until(s.over); c.goAway == nil {
			c.want(s, "200")
		}
		c.nc.Close()
		synctest.Wait()
		if n := o.frames.Load(); n > 100 {
			t.Errorf("%d frames went to the origin", n)
		}
		other := i.h2()
		other.want(other.get(":path", "/10"), "200")
	})
}

// Streams that are reset at once do not add up: not at the origin, and not in the proxy.
func TestR57_RapidReset(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		c.until(func() bool { return c.settings[settingMaxStreams] > 0 })
		c.nc.SetWriteDeadline(time.Now().Add(time.Hour))
		path := map[int]string{1: "/watch", 2: "/stall"}[o.version]
		for range 5000 {
			c.cancel(c.begin(false, ":method", "POST", ":path", path), codeCancel)
		}
		c.nc.Close()
		synctest.Wait()
		if most, allowed := o.most.Load(), int64(c.settings[settingMaxStreams]); most > allowed {
			t.Errorf("%d requests at once, %d streams are allowed", most, allowed)
		}
		if left := o.open.Load(); left > 0 {
			t.Errorf("%d requests are still at the origin", left)
		}
		other := i.h2()
		other.want(other.get(":path", "/10"), "200")
	})
}

// The number of streams that a client may have is announced, and enforced.
func TestR57_Streams(t *testing.T) {
	inBubbles(t, func(t *testing.T, o *flowOrigin, i *interception) {
		c := i.h2()
		c.until(func() bool { return c.settings[settingMaxStreams] > 0 })
		c.ping()
		allowed := int(c.settings[settingMaxStreams])
		if allowed > 1000 {
			t.Fatalf("%d streams are allowed", allowed)
		}
		var streams []*h2stream
		for range allowed + 10 {
			streams = append(streams, c.begin(false, ":method", "POST", ":path", "/stall"))
		}
		synctest.Wait()
		c.ping()
		for n, s := range streams {
			if refused := s.reset != nil && (*s.reset == codeRefused || *s.reset == codeProtocol); refused != (n >= allowed) {
				t.Fatalf("stream %d of %d allowed: %s", n, allowed, s.outcome())
			}
		}
		o.free()
		for _, s := range streams[:allowed] {
			c.data(s.id, true, "x")
			c.want(s, "200")
		}
		c.want(c.get(":path", "/10"), "200")
		if most := o.most.Load(); most > int64(allowed) {
			t.Errorf("%d requests at once", most)
		}
	})
}

// A header section of more than MaxHeaderBytes or MaxHeaderFields is answered with 431; a
// small one that decodes to a big one, too. The connection lives.
func TestR57_HeaderSize(t *testing.T) {
	const limit, fields = 8 << 10, 40
	big := func(n int) []string { return []string{":path", "/1", "x-big", strings.Repeat("x", n)} }
	many := func(n int) (list []string) {
		for range n {
			list = append(list, "x-many", "1")
		}
		return append(list, ":path", "/1")
	}
	eachVersion(t, func(t *testing.T, p *mitm.Proxy, version int) {
		addr, roots, seen := reporting(t, version)
		p.MaxHeaderBytes, p.MaxHeaderFields = limit, fields
		i := intercept(t, p, addr, roots)
		c := i.h2()
		for _, test := range []struct {
			fields  []string
			outcome string
		}{
			{big(limit - 1000), "200"}, {big(limit + 500), "431"}, {many(fields - 10), "200"}, {many(fields + 1), "431"}, {big(10), "200"},
		} {
			c.want(c.get(test.fields...), test.outcome)
			if test.outcome == "200" {
				receive(t, seen)
			}
		}
		for _, fields := range [][]string{big(2 * limit), big(20000), big(1 << 20), many(200), many(20000)} {
			c := i.h2()
			s := c.begin(true, fields...)
			if c.until(func() bool { return s.over() || c.goAway != nil }); s.outcome() != "431" && s.outcome() != "reset" && c.goAway == nil {
				t.Errorf("%s for %d fields; %v", s.outcome(), len(fields)/2, c.gone)
			}
		}
		bomb := i.h2()
		bomb.want(bomb.get("x-bomb", strings.Repeat("x", 3000)), "200") // now the first of the dynamic table
		receive(t, seen)
		s := bomb.stream(bomb.lastID + 2)
		bomb.block(s.id, true, append([]byte{0x82, 0x87, 0x84, 0x41, 1, 'x'}, slices.Repeat([]byte{0xbe}, 16000)...))
		if bomb.until(func() bool { return s.over() || bomb.goAway != nil }); s.outcome() != "431" && s.outcome() != "reset" && bomb.goAway == nil {
			t.Errorf("a bomb: %s", s.outcome())
		}
		if len(seen) > 0 {
			t.Errorf("the origin got %d more requests", len(seen))
		}
	})
}

// Of a response that is too large the client hears 502.
func TestR57_ResponseHeaderSize(t *testing.T) {
	addr, roots := h2Origin(t, func(c *h2peer) {
		for s := c.accept(); s != nil; s = c.accept() {
			n := 0
			fmt.Sscanf(valueOf(s.head, ":path"), "/%d", &n)
			c.answer(s, "", "x-big", strings.Repeat("x", n))
		}
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.MaxHeaderBytes = 8 << 10
		c := intercept(t, p, addr, roots).h2()
		for path, outcome := range map[string]string{"/7000": "200", "/10000": "502", "/100000": "502"} {
			c.want(c.get(":path", path), outcome)
		}
	})
}
