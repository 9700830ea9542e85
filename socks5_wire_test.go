package mitm_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/mitm"
)

// noAuth is the greeting of a SOCKS5 client that has no password, agreed what it is told.
const (
	noAuth = "\x05\x01\x00"
	agreed = "\x05\x00"
)

// socksReply is a reply with the code.
func socksReply(code byte) string {
	return "\x05" + string([]byte{code}) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

// socksRequest is a CONNECT to host:port by name, also where the host is an address.
func socksRequest(addr string) string {
	host, port, _ := net.SplitHostPort(addr)
	n, _ := strconv.Atoi(port)
	return "\x05\x01\x00\x03" + string([]byte{byte(len(host))}) + host + string([]byte{byte(n >> 8), byte(n)})
}

// socksTo connects to addr through the proxy at proxy and sends early in the same write.
func socksTo(t testing.TB, proxy, addr, early string) *peer {
	t.Helper()
	c := dial(t, proxy)
	c.send(noAuth + socksRequest(addr) + early)
	if got := c.read(12); got != agreed+socksReply(0) {
		t.Fatalf("SOCKS client was told %q", got)
	}
	return c
}

// dialling connects to addr whatever it is asked for, which it tells.
func dialling(addr string) (mitm.DialFunc, chan string) {
	asked := make(chan string, 64)
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		asked <- to
		return new(net.Dialer).DialContext(ctx, network, addr)
	}, asked
}

// refusing is a DialFunc that fails.
func refusing(err error) mitm.DialFunc {
	return func(context.Context, string, string) (net.Conn, error) { return nil, err }
}

func TestR59_Addresses(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	for request, want := range map[string]string{
		"\x01\x7f\x00\x00\x01\x00\x50":                       "127.0.0.1:80",
		"\x04" + strings.Repeat("\x00", 15) + "\x01\x01\xbb": "[::1]:443",
		"\x03\x0borigin.test\xff\xff":                        "origin.test:65535",
		"\x03\x0bORIGIN.test\x00\x50":                        "origin.test:80",
		"\x03\x09127.0.0.1\x00\x50":                          "127.0.0.1:80",
	} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			var asked chan string
			done, flows := doneHook()
			p.Dial, asked = dialling(addr)
			p.Hooks = append(p.Hooks, done)
			c := dial(t, start(t, p))
			c.send(noAuth)
			if got := c.read(2); got != agreed {
				t.Fatalf("%s: the greeting was answered with %q", want, got)
			}
			c.send("\x05\x01\x00" + request)
			if got := c.read(10); got != socksReply(0) {
				t.Fatalf("%s: told %q", want, got)
			}
			c.send("\x00ping")
			if got := c.read(5); got != "\x00ping" {
				t.Errorf("%s: got %q", want, got)
			}
			c.closeWrite()
			c.closed()
			if got := <-asked; got != want {
				t.Errorf("dialled %s, want %s", got, want)
			}
			if f := nextFlow(t, flows); f.Conn.Destination.Addr != want || !f.Tunnel || f.Err != nil || f.Sent() != 5 || f.Received() != 5 {
				t.Errorf("%s: flow to %s, tunnel %v, %v, %d bytes up, %d down", want, f.Conn.Destination.Addr, f.Tunnel, f.Err, f.Sent(), f.Received())
			}
		})
	}
}

// Every byte in a segment of its own: the answers come when they are due and not before.
func TestR59_SingleBytes(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		synctest.Test(t, func(t *testing.T) {
			client, server := memPipe()
			near, far := memPipe()
			p.Dial = func(context.Context, string, string) (net.Conn, error) { return near, nil }
			go p.ServeConn(t.Context(), server)
			text, want := noAuth+socksRequest("origin.test:80")+"\x00first", ""
			for i := range len(text) {
				io.WriteString(client, text[i:i+1])
				synctest.Wait()
				switch i + 1 {
				case len(noAuth):
					want = agreed
				case len(text) - len("\x00first"):
					want += socksReply(0)
				}
				if got := client.unread(); got != want {
					t.Fatalf("after %q the client was told %q, want %q", text[:i+1], got, want)
				}
			}
			if got := far.unread(); got != "\x00first" {
				t.Errorf("the origin got %q", got)
			}
			client.Close()
			far.Close()
			p.Close()
		})
	})
}

// Clients that do not wait for the answers lose nothing, whatever follows the request.
func TestR59_Pipelined(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	echoing := echo(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		c := socksTo(t, proxy, addr, "GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
		if got := c.read(len(ok200)); got != ok200 {
			t.Errorf("got %q", got)
		}
		if got := <-heads; got != "GET /x HTTP/1.1\r\nHost: h\r\n\r\n" {
			t.Errorf("the origin got %q", got)
		}
		for _, n := range []int{1, 100, 100 << 10} {
			early := strings.Repeat("\x00early", n/6+1)[:n]
			c := socksTo(t, proxy, echoing, early)
			if got := c.read(n); got != early {
				t.Errorf("%d bytes: they came back changed", n)
			}
		}
	})
}

// A refusal is told and the connection then ended so that the client gets to read it,
// although more was sent than was read.
func TestR59_Refused(t *testing.T) {
	t.Parallel()
	connect := "\x05\x01\x00"
	for name, test := range map[string]struct{ sent, want string }{
		"no method":         {"\x05\x00", "\x05\xff"},
		"GSSAPI":            {"\x05\x01\x01", "\x05\xff"},
		"password unasked":  {"\x05\x01\x02", "\x05\xff"},
		"BIND":              {noAuth + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", agreed + socksReply(7)},
		"UDP ASSOCIATE":     {noAuth + "\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00", agreed + socksReply(7)},
		"unknown command":   {noAuth + "\x05\x00\x00\x03\x0borigin.test\x00\x50", agreed + socksReply(7)},
		"unknown address":   {noAuth + connect + "\x05\x7f\x00\x00\x01\x00\x50", agreed + socksReply(8)},
		"other version":     {noAuth + "\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50", agreed + socksReply(1)},
		"HTTP":              {noAuth + "GET / HTTP/1.1\r\nHost: h\r\n\r\n", agreed + socksReply(1)},
		"port 0":            {noAuth + socksRequest("origin.test:0"), agreed + socksReply(1)},
		"no name":           {noAuth + socksRequest(":80"), agreed + socksReply(1)},
		"NUL in name":       {noAuth + socksRequest("origin\x00.test:80"), agreed + socksReply(1)},
		"space in name":     {noAuth + socksRequest("origin test:80"), agreed + socksReply(1)},
		"line end in name":  {noAuth + socksRequest("origin.test\r\n:80"), agreed + socksReply(1)},
		"port in name":      {noAuth + socksRequest("[origin.test:80]:80"), agreed + socksReply(1)},
		"brackets in name":  {noAuth + connect + "\x03\x05[::1]\x00\x50", agreed + socksReply(1)},
		"userinfo in name":  {noAuth + socksRequest("user@origin.test:80"), agreed + socksReply(1)},
		"SOCKS4":            {"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"SOCKS4 BIND":       {"\x04\x02\x00\x50\x7f\x00\x00\x01\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"SOCKS4a":           {"\x04\x01\x00\x50\x00\x00\x00\x01\x00origin.test\x00", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
		"SOCKS4 first byte": {"\x04", "\x00\x5b\x00\x00\x00\x00\x00\x00"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, more := range []string{"", strings.Repeat("more", 16<<10)} {
				c := dial(t, start(t, &mitm.Proxy{Dial: noDial(t)}))
				c.send(test.sent + more)
				if got, err := c.rest(); got != test.want || err != nil {
					t.Errorf("%d bytes more: told %q, %v; want %q and an end", len(more), got, err, test.want)
				}
			}
		})
	}
}

func TestR59_LongName(t *testing.T) {
	t.Parallel()
	addr := echo(t)
	p := &mitm.Proxy{}
	var asked chan string
	p.Dial, asked = dialling(addr)
	name := strings.Repeat("n", 255)
	socksTo(t, start(t, p), name+":80", "")
	if got := <-asked; got != name+":80" {
		t.Errorf("dialled %q", got)
	}
}

// How the dial went is told, and never as a success what was none.
func TestR59_DialOutcomes(t *testing.T) {
	t.Parallel()
	addr, nobody := echo(t), unreachable(t)
	rejecting := mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return mitm.Default, errors.New("why") })
	waiting := func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
	checked := mitm.CheckedDial(func(context.Context, netip.AddrPort) error { return errors.New("why") })
	system := func(errno syscall.Errno) error { return &net.OpError{Op: "dial", Err: errno} }
	for name, test := range map[string]struct {
		addr string
		want byte
		set  func(p *mitm.Proxy)
	}{
		"refused":         {nobody, 5, func(*mitm.Proxy) {}},
		"no such host":    {"origin.test:80", 4, func(p *mitm.Proxy) { p.Dial = refusing(&net.DNSError{Name: "origin.test", IsNotFound: true}) }},
		"no route":        {"origin.test:80", 4, func(p *mitm.Proxy) { p.Dial = refusing(system(syscall.EHOSTUNREACH)) }},
		"no network":      {"origin.test:80", 3, func(p *mitm.Proxy) { p.Dial = refusing(system(syscall.ENETUNREACH)) }},
		"gave up":         {"origin.test:80", 6, func(p *mitm.Proxy) { p.Dial = refusing(system(syscall.ETIMEDOUT)) }},
		"timeout":         {"origin.test:80", 6, func(p *mitm.Proxy) { p.Dial, p.DialTimeout = waiting, time.Nanosecond }},
		"other":           {"origin.test:80", 1, func(p *mitm.Proxy) { p.Dial = refusing(errors.New("what")) }},
		"Reject":          {addr, 2, func(p *mitm.Proxy) { p.Hooks, p.Dial = append(p.Hooks, rejects), noDial(t) }},
		"error of a hook": {addr, 2, func(p *mitm.Proxy) { p.Hooks, p.Dial = append(p.Hooks, rejecting), noDial(t) }},
		"CheckedDial":     {addr, 2, func(p *mitm.Proxy) { p.Dial = checked }},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				test.set(p)
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				c := dial(t, start(t, p))
				c.send(noAuth + socksRequest(test.addr) + strings.Repeat("GET / HTTP/1.1\r\n\r\n", 4<<10))
				if got, err := c.rest(); got != agreed+socksReply(test.want) || err != nil {
					t.Errorf("told %q, %v; want reply %d and an end", got, err, test.want)
				}
				p.Close()
				if len(flows) != 1 {
					t.Fatalf("%d flows, want one", len(flows))
				}
				f := <-flows
				if op := (*mitm.OpError)(nil); !errors.As(f.Err, &op) || op.Addr != test.addr || f.Conn.Destination.Addr != test.addr || f.Tunnel {
					t.Errorf("flow to %s, tunnel %v, %v", f.Conn.Destination.Addr, f.Tunnel, f.Err)
				}
				if rejected := errors.Is(f.Err, mitm.ErrRejected); rejected != (test.want == 2) {
					t.Errorf("flow: %v", f.Err)
				}
			})
		})
	}
}

// The proxy is no destination.
func TestR29_SOCKSLoop(t *testing.T) {
	t.Parallel()
	proxy := start(t, &mitm.Proxy{})
	c := dial(t, proxy)
	c.send(noAuth + socksRequest(proxy))
	if got, err := c.rest(); got != agreed+socksReply(1) || err != nil {
		t.Errorf("told %q, %v", got, err)
	}
}

// A negotiation has as long as the head of a request, however many bytes come.
func TestR59_Slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := memPipe()
		p := &mitm.Proxy{HeadTimeout: time.Minute}
		began := time.Now()
		var writing sync.WaitGroup
		writing.Go(func() {
			for _, b := range []byte(noAuth + socksRequest("origin.test:80")) {
				if _, err := client.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(13 * time.Second)
			}
		})
		p.ServeConn(t.Context(), server)
		if took := time.Since(began); took < time.Minute || took > 2*time.Minute {
			t.Errorf("it ended after %v", took)
		}
		client.Close()
		writing.Wait()
		p.Close()
	})
}

// A client in the middle of a negotiation does not hold up a Shutdown.
func TestSOCKSShutdown(t *testing.T) {
	t.Parallel()
	p := &mitm.Proxy{}
	c := dial(t, start(t, p))
	c.send(noAuth + "\x05\x01")
	c.read(2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	c.closed()
}
