package mitm_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/mitm"
)

// helloCuts are where a ClientHello may be cut: in and behind its headers, and elsewhere.
func helloCuts(n int) []int { return []int{1, 2, 3, 5, 6, 9, 11, 43, 44, n / 2, n - 1} }

// A ClientHello may come in any pieces: with what asks for the connection or after it, in
// segments and records of any size.
func TestR48_Pieces(t *testing.T) {
	whole := func(s string) []string { return []string{s} }
	for name, cut := range map[string]func(hello string) []string{
		"with the request":        whole,
		"alone":                   func(s string) []string { return []string{"", s} },
		"single bytes":            func(s string) []string { return append([]string{""}, strings.Split(s, "")...) },
		"single bytes, one early": func(s string) []string { return strings.Split(s, "") },
		"records of 1 byte":       func(s string) []string { return whole(inRecords(s, 1)) },
		"records of 1, 2, 3, ...": func(s string) []string { return whole(inRecords(s, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) },
		"records of 100":          func(s string) []string { return whole(inRecords(s, 100)) },
		"a record for the header": func(s string) []string { return whole(inRecords(s, 4, 1<<14)) },
		"single bytes of records": func(s string) []string { return strings.Split(inRecords(s, 50), "") },
	} {
		t.Run(name, func(t *testing.T) { eachEntry(t, func(t *testing.T, e entry) { wantInPieces(t, e, nil, cut) }) })
	}
	for i := range helloCuts(100) {
		eachEntry(t, func(t *testing.T, e entry) {
			wantInPieces(t, e, nil, func(s string) []string {
				at := helloCuts(len(s))[i]
				return []string{s[:at], s[at:]}
			})
		})
	}
}

// wantInPieces sends a ClientHello in pieces, the first of them early, to a proxy that opens TLS.
// What a read returns is no more than one of the pieces. The hello goes to the hook as it came.
func wantInPieces(t *testing.T, e entry, config *tls.Config, cut func(hello string) []string) {
	t.Helper()
	s := newSite(t, e)
	raw := make(chan string, 1)
	s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
		if c.Protocol == mitm.TLS {
			raw <- string(c.RawClientHello)
		}
		return mitm.Default, nil
	})}
	proxy := start(t, s.p)
	var sent string
	c := tls.Client(&helloConn{send: func(hello string) *peer {
		pieces := cut(hello)
		sent = strings.Join(pieces, "")
		p := e.open(t, proxy, pieces[0])
		for _, piece := range pieces[1:] {
			p.send(piece)
		}
		return p
	}}, s.trusting())
	if config != nil {
		config.RootCAs, config.ServerName = s.trusting().RootCAs, "site.test"
		c = tls.Client(c.NetConn(), config)
	}
	want(t, askTLS(t, c, "/x"), "HTTP/1.1 /x")
	if got := receive(t, raw); got != sent {
		t.Errorf("the hook saw %d bytes of ClientHello, want %d", len(got), len(sent))
	}
}

// protocolsOf are names of protocols that take n bytes in a ClientHello; the last is known.
func protocolsOf(n int) (names []string) {
	for i := 0; n > 200; i++ {
		names = append(names, fmt.Sprintf("%0199d", i))
		n -= 200
	}
	return append(names, "http/1.1")
}

// A ClientHello may be large.
func TestR48_Large(t *testing.T) {
	for _, size := range []int{0, 20 << 10, 62 << 10} {
		for _, curves := range [][]tls.CurveID{{tls.X25519}, nil} { // nil: one of them is post-quantum, of 1.2 KiB
			t.Run(fmt.Sprint(size, curves), func(t *testing.T) {
				eachEntry(t, func(t *testing.T, e entry) {
					config := &tls.Config{NextProtos: protocolsOf(size), CurvePreferences: curves}
					wantInPieces(t, e, config, func(hello string) []string {
						if n := len(hello); n < size || n > 64<<10 || curves == nil && n < size+1300 {
							t.Errorf("the test's ClientHello has %d bytes", n)
						}
						return []string{"", hello}
					})
				})
			})
		}
	}
}

// handshakeOf is a record, or several, with a handshake message of some size.
func handshakeOf(kind byte, size int) string {
	message := string([]byte{kind, byte(size >> 16), byte(size >> 8), byte(size)}) + strings.Repeat("\x03", size)
	return inRecords("\x16\x03\x01"+string([]byte{byte(len(message) >> 8), byte(len(message))})+message, 1<<14)
}

// What begins like TLS and is none goes to the origin as it came. So does a ClientHello that can't be read,
// unless TLS is to be terminated: then it is answered by an alert.
func TestR48_Garbage(t *testing.T) {
	big := strings.Repeat("\x16\x03\x01\x40\x00\x01\x01\x00\x00"+strings.Repeat("x", 1<<14-4), 10)
	for name, test := range map[string]struct {
		sent  string
		alert byte // 0: it is no ClientHello
	}{
		"two bytes":          {"\x16\x03", 0},
		"a record's header":  {"\x16\x03\x01\x00\x05", 0},
		"ServerHello":        {handshakeOf(2, 50), 0},
		"no records":         {"\x16\x03\x01\x01\x00" + strings.Repeat("\x00 / HTTP/1.1\r\n", 100), 0},
		"another version":    {"\x16\x02\x01\x00\x05\x01\x00\x00\x01\x00", 50},
		"an empty hello":     {handshakeOf(1, 0), 50},
		"a short hello":      {handshakeOf(1, 1), 50},
		"a wrong hello":      {handshakeOf(1, 300), 50},
		"an empty record":    {"\x16\x03\x01\x00\x00" + handshakeOf(1, 300), 10},
		"an empty one later": {"\x16\x03\x01\x00\x01\x01" + "\x16\x03\x01\x00\x00" + handshakeOf(1, 300), 10},
		"a record too large": {"\x16\x03\x01\xff\xff\x01" + strings.Repeat("x", 1<<16), 22},
		"another type later": {"\x16\x03\x01\x00\x01\x01" + "\x17\x03\x01\x00\x01x", 50},
		"64 KiB and more":    {big, 50},
		"1 MiB":              {"\x16\x03\x01\x40\x00\x01\x10\x00\x00" + strings.Repeat("x", 1<<20), 80},
		"many small records": {inRecords("\x16\x03\x01\x40\x00\x01\x00\x3f\xfc"+strings.Repeat("x", 1<<14-4), 1), 50},
	} {
		t.Run(name, func(t *testing.T) {
			sent := test.sent
			eachEntry(t, func(t *testing.T, e entry) {
				for _, ca := range []*mitm.CA{newCA(t), nil} {
					addr, ends := recorder(t)
					s := newRawSite(t, e, addr)
					s.p.CA = ca
					c := e.open(t, start(t, s.p), "")
					go func() {
						c.send(sent)
						c.closeWrite()
					}()
					refused, back, forth := ca != nil && test.alert > 0, sent, sent
					if refused {
						back, forth = "\x15\x03\x01\x00\x02\x02"+string([]byte{test.alert}), ""
					}
					if got, err := c.rest(); got != back || err != nil {
						t.Errorf("CA %v: %d bytes came back, %.20q, %v", ca != nil, len(got), got, err)
					}
					if refused {
						s.p.Close()
						ends <- "" // or the origin was not reached
					}
					if got := strings.TrimSuffix(receive(t, ends), " cut"); got != forth {
						t.Errorf("CA %v: the origin got %d bytes, want %d", ca != nil, len(got), len(forth))
					}
				}
			})
		})
	}
}

// Of a ClientHello whose end does not come, the rest is waited for, but not for ever.
func TestR48_Incomplete(t *testing.T) {
	const garbage = "\x16\x03\x01\x40\x00\x01"
	hello := smallHello("site.test")
	for _, sent := range []string{"\x16\x03\x01", hello[:20], hello[:len(hello)-1], garbage + strings.Repeat("x", 100)} {
		eachEntry(t, func(t *testing.T, e entry) {
			t.Parallel()
			s := newRawSite(t, e, echo(t))
			s.p.TLSTimeout = 50 * time.Millisecond
			c := e.open(t, start(t, s.p), sent)
			back := sent
			if len(sent) >= len(garbage) {
				back = "\x15\x03\x01\x00\x02\x02\x32"
			}
			want(t, c.read(len(back)), back)
		})
	}
}

// A client that says no more after its ClientHello is given up after TLSTimeout.
func TestR48_Stalled(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		done, flows := doneHook()
		s.p.TLSTimeout, s.p.Hooks = 300*time.Millisecond, []mitm.Hook{done}
		c := e.open(t, start(t, s.p), smallHello("site.test"))
		if got, _ := c.rest(); !strings.HasPrefix(got, "\x16\x03\x03") {
			t.Errorf("the client got %q", got)
		}
		op, ok := errors.AsType[*mitm.OpError](nextFlow(t, flows).Err)
		if !ok || op.Op != "client tls" || op.Addr != e.addr || !op.Timeout() {
			t.Errorf("error %v", op)
		}
		s.untouched(t, "site.test")
	})
}

// A ClientHello that breaks off, at whatever byte, leaves nothing: what came goes to the
// origin with the same end.
func TestR48_AbortedHello(t *testing.T) {
	hello := smallHello("site.test", "http/1.1")
	eachEntry(t, func(t *testing.T, e entry) {
		addr, ends := recorder(t)
		s := newRawSite(t, e, addr)
		proxy := start(t, s.p)
		for n := 1; n < len(hello); n++ {
			c := e.open(t, proxy, hello[:n])
			c.closeWrite()
			if got, err := c.rest(); got != hello[:n] || err != nil {
				t.Errorf("%d bytes: %q came back, %v", n, got, err)
			}
			want(t, receive(t, ends), hello[:n])
			c.Close()
		}
		shutdown(t, s.p)
	})
}

// limitedConn breaks off after so many bytes were written.
type limitedConn struct {
	*peer
	left  int
	reset bool
}

func (c *limitedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

func (c *limitedConn) Write(b []byte) (int, error) {
	if len(b) < c.left {
		c.left -= len(b)
		return c.Conn.Write(b)
	}
	c.Conn.Write(b[:c.left])
	c.left = 0
	if c.reset {
		c.Conn.(*net.TCPConn).SetLinger(0)
	}
	c.Conn.Close()
	return 0, io.ErrClosedPipe
}

// A handshake that breaks off, at whatever byte, by an end or a reset, leaves nothing, and
// says nothing to the origin.
func TestR48_AbortedHandshake(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		s := newSite(t, e)
		var dialled, closed atomic.Int32
		s.p.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := s.dial(ctx, network, addr)
			if err == nil {
				dialled.Add(1)
			}
			return nc, err
		}
		done := mitm.OnDone(func(*mitm.Flow) { closed.Add(1) })
		s.p.Hooks = []mitm.Hook{done}
		proxy := start(t, s.p)
		for n := 1; ; n += 13 {
			c := &limitedConn{peer: e.open(t, proxy, ""), left: n, reset: n%2 == 0}
			tls.Client(c, s.trusting("http/1.1")).Handshake()
			if c.Close(); c.left > 0 {
				break
			}
		}
		shutdown(t, s.p)
		if dialled.Load() == 0 || closed.Load() == 0 {
			t.Errorf("%d connections were dialled, %d flows ended", dialled.Load(), closed.Load())
		}
		for range dialled.Load() {
			if got := receive(t, s.ends["site.test"]); strings.Contains(got, "in TLS") {
				t.Errorf("the origin got %s", got)
			}
		}
	})
}

// The second question comes with all that the ClientHello says, and with its bytes, but with
// none of those behind it.
func TestConnOfClientHello(t *testing.T) {
	eachEntry(t, func(t *testing.T, e entry) {
		for _, behind := range []string{"", "\x17\x03\x03\x00\x05early"} {
			s := newRawSite(t, e, echo(t))
			asked := make(chan *mitm.Conn, 2)
			s.p.Hooks = []mitm.Hook{mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
				kept := *c
				asked <- &kept
				if c.Protocol == mitm.TLS {
					return mitm.Tunnel, nil
				}
				return mitm.Default, nil
			})}
			hello := inRecords(smallHello("site.test", "mqtt", "h2", "http/1.1"), 70)
			c := e.open(t, start(t, s.p), hello+behind)
			want(t, c.read(len(hello+behind)), hello+behind)
			first, second := receive(t, asked), receive(t, asked)
			if first.Protocol != mitm.Unknown || first.ServerName != "" || first.ClientHello != nil || first.RawClientHello != nil {
				t.Errorf("the first question came with %+v", first)
			}
			if second.Protocol != mitm.TLS || second.ServerName != "site.test" || string(second.RawClientHello) != hello {
				t.Errorf("the second question came with %v, %q and %q", second.Protocol, second.ServerName, second.RawClientHello)
			}
			want(t, second.Destination.Addr, e.addr)
			info := second.ClientHello
			if info == nil || info.Conn != nil || info.ServerName != "site.test" ||
				!slices.Equal(info.SupportedProtos, []string{"mqtt", "h2", "http/1.1"}) ||
				!slices.Equal(info.SupportedVersions, []uint16{tls.VersionTLS13, tls.VersionTLS12}) {
				t.Errorf("ClientHello %+v", info)
			}
		}
	})
}
