package mitm_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/mitm"
)

// lookup is a Lookup of the user's own.
func lookup(addr string) func(net.Conn) (netip.AddrPort, error) {
	return func(net.Conn) (netip.AddrPort, error) { return netip.ParseAddrPort(addr) }
}

// countedDial is the default dialer, counted.
func countedDial(n *atomic.Int32) mitm.DialFunc {
	return mitm.CheckedDial(func(context.Context, netip.AddrPort) error { n.Add(1); return nil })
}

// What the system can't do is an error before the first connection.
func TestTransparentSupport(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		mode    mitm.Transparent
		onLinux bool
	}{
		"NAT":          {mitm.Transparent{}, true},
		"TPROXY":       {mitm.Transparent{TPROXY: true}, false},
		"Lookup":       {mitm.Transparent{Lookup: lookup("192.0.2.1:80")}, false},
		"SpoofSource":  {mitm.Transparent{TPROXY: true, SpoofSource: true}, true},
		"Mark":         {mitm.Transparent{Lookup: lookup("192.0.2.1:80"), Mark: 1}, true},
		"largest Mark": {mitm.Transparent{Mark: min(1<<31-1, int(^uint(0)>>1))}, true},
	} {
		supported := runtime.GOOS == "linux" || !test.onLinux
		p := &mitm.Proxy{Mode: test.mode}
		p.Close()
		err := p.Serve(newMemListener())
		if supported && err != mitm.ErrProxyClosed || !supported && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: Serve returned %v", name, err)
		}
		l, err := test.mode.Listen("127.0.0.1:0")
		if errors.Is(err, errors.ErrUnsupported) == supported {
			t.Errorf("%s: Listen returned %v", name, err)
		}
		if err == nil {
			l.Close()
		}
	}
}

func TestTransparentMark(t *testing.T) {
	t.Parallel()
	marks := []int{-1}
	if strconv.IntSize == 64 {
		one := 1
		marks = append(marks, one<<32)
	}
	for _, mark := range marks {
		mode := mitm.Transparent{Mark: mark, Lookup: lookup("192.0.2.1:80")}
		if l, err := mode.Listen("127.0.0.1:0"); err == nil {
			l.Close()
			t.Errorf("Listen with mark %d succeeded", mark)
		}
		p := &mitm.Proxy{Mode: mode}
		if err := p.Serve(newMemListener()); err == nil || err == mitm.ErrProxyClosed {
			t.Errorf("Serve with mark %d: %v", mark, err)
		}
		p.Close()
	}
}

// An address that a Lookup of the user's own finds counts as if it were the kernel's.
func TestTransparentLookup(t *testing.T) {
	t.Parallel()
	addr, heads := answering(t, ok200)
	other, strayed := answering(t, ok200)
	mapped := netip.MustParseAddrPort(addr)
	mapped = netip.AddrPortFrom(netip.AddrFrom16(mapped.Addr().As16()), mapped.Port())
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		p.Mode = mitm.Transparent{Lookup: func(nc net.Conn) (netip.AddrPort, error) {
			if _, ok := nc.(*net.TCPConn); !ok {
				t.Errorf("Lookup got a %T", nc)
			}
			return mapped, nil
		}}
		c := dial(t, start(t, p))
		c.send("GET http://" + other + "/ HTTP/1.1\r\nHost: " + other + "\r\n\r\n")
		c.wantStatus(200)
		if got := <-heads; got != "GET http://"+other+"/ HTTP/1.1\r\nHost: "+other+"\r\n\r\n" {
			t.Errorf("the origin got %q", got)
		}
		if f := nextFlow(t, flows); f.Conn.Destination.Addr != addr || f.Err != nil {
			t.Errorf("flow to %s: %v", f.Conn.Destination.Addr, f.Err)
		}
	})
	if len(strayed) > 0 {
		t.Errorf("another origin got %q", <-strayed)
	}
}

// Where no destination is found nothing is dialled, whatever the client asks for.
func TestTransparentNoDestination(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		lookup func(net.Conn) (netip.AddrPort, error)
		want   error
	}{
		"direct": {func(net.Conn) (netip.AddrPort, error) { return netip.AddrPort{}, mitm.ErrNotRedirected }, mitm.ErrNotRedirected},
		"error":  {func(net.Conn) (netip.AddrPort, error) { return netip.MustParseAddrPort("192.0.2.1:1"), broken }, broken},
		"zero":   {func(net.Conn) (netip.AddrPort, error) { return netip.AddrPort{}, nil }, mitm.ErrNotRedirected},
		"panic":  {func(net.Conn) (netip.AddrPort, error) { panic("on purpose") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
				done, flows := doneHook()
				p.Hooks = append(p.Hooks, done)
				p.Dial, p.Mode, p.Logger = noDial(t), mitm.Transparent{Lookup: test.lookup}, slog.New(slog.DiscardHandler)
				wantReset(t, start(t, p))
				if f := nextFlow(t, flows); f.Err == nil || test.want != nil && !errors.Is(f.Err, test.want) {
					t.Errorf("flow: %v", f.Err)
				}
			})
		})
	}
}

// wantReset fails the test unless a connection is reset, at the latest after a request
// that an explicit proxy would serve.
func wantReset(t *testing.T, addr string) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err == nil {
		defer nc.Close()
		_, err = io.WriteString(nc, "GET http://192.0.2.1/ HTTP/1.1\r\nHost: h\r\n\r\n")
	}
	var got string
	if err == nil {
		got, err = newPeer(t, nc).rest()
	}
	if got != "" || !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %q, %v; want a reset", got, err)
	}
}

// A connection to the proxy itself is refused: no rule led it there.
func TestTransparentDirect(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]mitm.Transparent{"NAT": {}, "TPROXY": {TPROXY: true}} {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0", ":0"} {
			t.Run(name+" "+addr, func(t *testing.T) {
				skipUnless(t, runtime.GOOS == "linux" || mode.TPROXY, "needs Linux")
				l, err := net.Listen("tcp", addr)
				skipUnless(t, err == nil, "needs IPv6")
				var dials atomic.Int32
				p := &mitm.Proxy{Mode: mode, Dial: countedDial(&dials)}
				served := make(chan error, 1)
				go func() { served <- p.Serve(l) }()
				port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
				host, _, _ := strings.Cut(addr, ":0")
				if host != "" {
					wantReset(t, host+":"+port)
				} else {
					wantReset(t, "127.0.0.1:"+port)
					wantReset(t, "[::1]:"+port)
				}
				p.Close()
				<-served
				if n := dials.Load(); n > 0 {
					t.Errorf("%d dials", n)
				}
			})
		}
	}
}

// Of a Multipath TCP connection the kernel tells nothing. The error says what to do.
func TestTransparentMultipath(t *testing.T) {
	t.Parallel()
	enabled, _ := os.ReadFile("/proc/sys/net/mptcp/enabled")
	skipUnless(t, string(enabled) == "1\n", "needs Linux with Multipath TCP")
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done, flows := doneHook()
	p := &mitm.Proxy{Mode: mitm.Transparent{}, Hooks: []mitm.Hook{done}, Dial: noDial(t)}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	defer func() { p.Close(); <-served }()
	var d net.Dialer
	d.SetMultipathTCP(true)
	for range 50 {
		if nc, err := d.Dial("tcp", l.Addr().String()); err == nil { // or reset already
			defer nc.Close()
		}
		f := nextFlow(t, flows)
		if errors.Is(f.Err, mitm.ErrNotRedirected) {
			continue // the kernel fell back to TCP for this one
		}
		if !errors.Is(f.Err, errors.ErrUnsupported) || !strings.Contains(f.Err.Error(), "Transparent.Listen") {
			t.Errorf("flow: %v", f.Err)
		}
		return
	}
	t.Error("no connection was Multipath TCP")
}

// The server name of a client's TLS never chooses where its connection goes.
func TestR46_ServerNameIsNoRoute(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.TLS.ServerName) }))
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		done, flows := doneHook()
		p.Hooks = append(p.Hooks, done)
		addr := server.Listener.Addr().String()
		p.Mode = mitm.Transparent{Lookup: lookup(addr)}
		c := dial(t, start(t, p))
		client := tls.Client(c.Conn, &tls.Config{RootCAs: roots, ServerName: "example.com"})
		c = newPeer(t, client)
		c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if _, body := c.response("GET"); body != "example.com" {
			t.Errorf("got %q", body)
		}
		client.Close()
		if f := nextFlow(t, flows); f.Conn.Destination.Addr != addr || f.Conn.ServerName != "example.com" || f.Conn.Protocol != mitm.TLS {
			t.Errorf("flow of %v to %s, called %s", f.Conn.Protocol, f.Conn.Destination.Addr, f.Conn.ServerName)
		}
	})
}
