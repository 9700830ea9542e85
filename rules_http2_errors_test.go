package mitm_test

import (
	"errors"
	"os"
	"testing"

	"example.com/mitm"
)

// Violations that concern the connection end it, with the error code that the RFC names, and
// no other connection.
func TestR50_ConnectionErrors(t *testing.T) {
	addr, roots, _ := reporting(t, 2)
	i := intercept(t, &mitm.Proxy{}, addr, roots)
	conns, other := map[string]*h2peer{}, i.h2()
	for name, test := range map[string]struct {
		code uint32
		send func(c *h2peer)
	}{
		"frame too large": {codeFrameSize, func(c *h2peer) {
			c.frame(frameData, 0, c.lastID, make([]byte, max(c.settings[settingFrameSize], 16384)+1))
		}},
		"PING of 7 bytes":      {codeFrameSize, func(c *h2peer) { c.frame(framePing, 0, 0, make([]byte, 7)) }},
		"SETTINGS of 5 bytes":  {codeFrameSize, func(c *h2peer) { c.frame(frameSettings, 0, 0, make([]byte, 5)) }},
		"bad field section":    {codeCompression, func(c *h2peer) { c.block(c.lastID+2, true, []byte{0xff, 0xff, 0xff}) }},
		"even stream":          {codeProtocol, func(c *h2peer) { c.headers(c.lastID+1, true, ":method", "GET") }},
		"HEADERS on stream 0":  {codeProtocol, func(c *h2peer) { c.headers(0, true, ":method", "GET") }},
		"DATA on stream 0":     {codeProtocol, func(c *h2peer) { c.frame(frameData, 0, 0, []byte("x")) }},
		"DATA on idle stream":  {codeProtocol, func(c *h2peer) { c.frame(frameData, 0, c.lastID+2, []byte("x")) }},
		"padding too long":     {codeProtocol, func(c *h2peer) { c.frame(frameData, padded, c.begin(false, ":method", "POST").id, []byte{9, 'x'}) }},
		"ENABLE_PUSH 2":        {codeProtocol, func(c *h2peer) { c.sendSettings(settingPush, 2) }},
		"MAX_FRAME_SIZE 0":     {codeProtocol, func(c *h2peer) { c.sendSettings(settingFrameSize, 0) }},
		"window of 2^31":       {codeFlowControl, func(c *h2peer) { c.sendSettings(settingWindow, 1<<31) }},
		"window update of 0":   {codeProtocol, func(c *h2peer) { c.number(frameWindow, 0, 0) }},
		"window update to max": {codeFlowControl, func(c *h2peer) { c.number(frameWindow, 0, 1<<31-1) }},
		"push":                 {codeProtocol, func(c *h2peer) { c.frame(framePushPromise, endHeaders, c.lastID, []byte{0, 0, 0, 2, 0x82}) }},
		"CONTINUATION alone":   {codeProtocol, func(c *h2peer) { c.frame(frameContinuation, endHeaders, c.lastID, []byte{0x82}) }},
		"interrupted HEADERS": {codeProtocol, func(c *h2peer) {
			c.frame(frameHeaders, endStream, c.lastID+2, []byte{0x82})
			c.frame(framePing, 0, 0, make([]byte, 8))
		}},
	} {
		c := i.h2()
		conns[name] = c
		c.want(c.get(), "200")
		test.send(c)
		c.until(func() bool { return c.goAway != nil })
		if c.goAway == nil || c.goAway.code != test.code {
			t.Errorf("%s: GOAWAY %v, want code %d; then %v", name, c.goAway, test.code, c.gone)
		}
		other.want(other.get(), "200")
	}
	for name, c := range conns {
		if c.until(func() bool { return false }); errors.Is(c.gone, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the connection does not end", name)
		}
	}
}

// An origin that violates the protocol costs the request a 502, and the proxy nothing.
func TestR50_OriginErrors(t *testing.T) {
	for name, reply := range map[string]func(c *h2peer, id uint32){
		"frame too large":    func(c *h2peer, id uint32) { c.frame(frameData, 0, id, make([]byte, 1<<24-1)) },
		"bad field section":  func(c *h2peer, id uint32) { c.block(id, true, []byte{0xff, 0xff, 0xff}) },
		"DATA first":         func(c *h2peer, id uint32) { c.data(id, true, "x") },
		"DATA on stream 0":   func(c *h2peer, id uint32) { c.data(0, true, "x") },
		"push":               func(c *h2peer, id uint32) { c.frame(framePushPromise, endHeaders, id, []byte{0, 0, 0, 2, 0x82}) },
		"MAX_FRAME_SIZE 0":   func(c *h2peer, id uint32) { c.sendSettings(settingFrameSize, 0) },
		"window of 2^31":     func(c *h2peer, id uint32) { c.sendSettings(settingWindow, 1<<31) },
		"window update of 0": func(c *h2peer, id uint32) { c.number(frameWindow, 0, 0) },
		"PING of 7 bytes":    func(c *h2peer, id uint32) { c.frame(framePing, 0, 0, make([]byte, 7)) },
		"CONTINUATION alone": func(c *h2peer, id uint32) { c.frame(frameContinuation, endHeaders, id, []byte{0x88}) },
		"HTTP/1":             func(c *h2peer, id uint32) { c.nc.Write([]byte(ok200)) },
		"no status":          func(c *h2peer, id uint32) { c.headers(id, true, "x", "y") },
		"status of 4 digits": func(c *h2peer, id uint32) { c.headers(id, true, ":status", "2000") },
		"status 99":          func(c *h2peer, id uint32) { c.headers(id, true, ":status", "099") },
		"interim at the end": func(c *h2peer, id uint32) { c.headers(id, true, ":status", "103") },
		"only interim":       func(c *h2peer, id uint32) { c.headers(id, false, ":status", "103"); c.data(id, true, "x") },
		"101": func(c *h2peer, id uint32) {
			c.headers(id, false, ":status", "101")
			c.headers(id, true, ":status", "200")
		},
		"request":            func(c *h2peer, id uint32) { c.headers(id, true, ":method", "GET", ":path", "/") },
		"late pseudo-header": func(c *h2peer, id uint32) { c.headers(id, true, "x", "y", ":status", "200") },
		"two status":         func(c *h2peer, id uint32) { c.headers(id, true, ":status", "200", ":status", "200") },
		"reset":              func(c *h2peer, id uint32) { c.number(frameReset, id, codeProtocol) },
	} {
		t.Run(name, func(t *testing.T) {
			addr, roots := h2Origin(t, func(c *h2peer) {
				for s := c.accept(); s != nil; s = c.accept() {
					if valueOf(s.head, ":path") == "/good" {
						c.answer(s, "ok")
					} else {
						reply(c, s.id)
					}
				}
			})
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				c := intercept(t, p, addr, roots).h2()
				c.want(c.get(":path", "/good"), "200")
				s := c.get()
				if c.want(s, "502"); len(s.interim) > 0 && valueOf(s.interim[0], ":status") != "103" {
					t.Errorf("interim %v", s.interim)
				}
				c.want(c.get(":path", "/good"), "200")
			})
		})
	}
}
