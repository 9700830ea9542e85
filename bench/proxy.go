package main

import (
	"context"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"time"
)

// proxyConfig is what a proxy of one of the roles is told.
type proxyConfig struct {
	// Leaf is a certificate of the origin's names, by CA.
	CA, Leaf pair
	// Intercept opens TLS; HTTP2 also offers that inside.
	Intercept, HTTP2 bool
	// Transparent gets redirected connections.
	Transparent bool
	// Hooks sets a field of each request and each response, TunnelHook tunnels what could be
	// opened.
	Hooks, TunnelHook bool
	// Soak has hooks of all kinds, one of which tunnels to throughName. Idle, if not 0, is how
	// long idle connections are kept. Both are for mitm.
	Soak bool
	Idle time.Duration
}

// throughName is a name of the origin whose TLS is not opened in a soak.
const throughName = "through." + domain

// listening is where a proxy is to be found.
type listening struct{ Port int }

// inquiry asks a proxy for what only the process itself can know.
type inquiry struct {
	Collect bool   // garbage first
	Profile string // a file: begin to write a CPU profile. Empty: end that.
	Traces  bool   // tell where goroutines are
}

// allocations is the answer, with what is held now.
type allocations struct {
	Objects, Bytes            uint64
	Goroutines                int
	HeapLive, HeapUse, Stacks uint64 // bytes
	Traces                    string
}

// serveProxy is what the proxies among the roles have in common: serve gets a listener, and
// questions are answered until the end.
func serveProxy(c *control, start func(config proxyConfig) (l net.Listener, serve func(net.Listener) error, err error)) error {
	var config proxyConfig
	if err := c.receive(&config); err != nil {
		return err
	}
	l, serve, err := start(config)
	if err != nil {
		return err
	}
	if l == nil {
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
	}
	go serve(l)
	if err := c.send(listening{l.Addr().(*net.TCPAddr).Port}); err != nil {
		return err
	}
	for {
		if err := answer(c); err != nil {
			return err
		}
	}
}

func answer(c *control) error {
	var q inquiry
	if err := c.receive(&q); err != nil {
		return err
	}
	pprof.StopCPUProfile()
	if q.Collect {
		debug.FreeOSMemory()
		debug.FreeOSMemory() // a sync.Pool gives away what it has at the second collection
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if q.Profile != "" {
		f, err := os.Create(q.Profile) // until the end of the process
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
	}
	a := allocations{
		Objects: m.Mallocs, Bytes: m.TotalAlloc, Goroutines: runtime.NumGoroutine(),
		HeapLive: m.HeapAlloc, HeapUse: m.HeapInuse, Stacks: m.StackInuse,
	}
	if q.Traces {
		var b strings.Builder
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		a.Traces = b.String()
	}
	return c.send(a)
}

// dialOrigin connects to 127.0.0.1 for all names of the origin, which nobody else knows.
func dialOrigin(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && strings.HasSuffix(host, "."+domain) {
		addr = net.JoinHostPort("127.0.0.1", port)
	}
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}
