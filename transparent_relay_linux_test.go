package mitm_test

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/mitm"
)

// Bulk data passes whole, and the proxy does not even look at it.
func TestInsideBulk(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		n := bulk() / 16
		if w.name == redirect.name && ip == families[0] {
			n = bulk()
		}
		addr := ip.server(1, 19)
		heard := make(chan string, 1)
		l.serve(t, addr, func(c *peer) {
			c.SetDeadline(time.Now().Add(12 * patience))
			c.send("go")
			heard <- digest(io.LimitReader(c.r, n))
			io.Copy(c.Conn, noise(2, n))
		})
		done, flows := doneHook()
		l.start(t, &mitm.Proxy{Hooks: []mitm.Hook{done}}, w)
		c := l.client.dial(t, "", addr)
		c.SetDeadline(time.Now().Add(12 * patience))
		c.read(2)
		before := copied()
		io.Copy(c.Conn, noise(1, n))
		if got, want := <-heard, digest(noise(1, n)); got != want {
			t.Errorf("the server got %s, want %s", got, want)
		}
		if got, want := digest(c.r), digest(noise(2, n)); got != want {
			t.Errorf("the client got %s, want %s", got, want)
		}
		// The client and the server are in this process too: they write and read all once.
		byProxy := copied() - before - 4*n
		if t.Logf("copied %d of %d bytes", byProxy, 2*n); byProxy > n/4 {
			t.Error("too much was copied")
		}
		c.Close()
		if f := nextFlow(t, flows); f.Sent() != n || f.Received() != n+2 || f.Err != nil {
			t.Errorf("flow: %d up, %d down, %v", f.Sent(), f.Received(), f.Err)
		}
	})
}

// copied is how much read and write moved between kernel and process.
func copied() int64 {
	return procNumber("/proc/self/io", "rchar:") + procNumber("/proc/self/io", "wchar:")
}

// A connection on which nothing happens has no pipe, also if it was busy before.
func TestInsideIdle(t *testing.T) {
	l := newLab(t)
	const connections, much = 200, 4 << 20
	for _, w := range []way{redirect, tproxy} {
		eachFamily(t, w, func(t *testing.T, ip family) {
			addr := ip.server(1, 7)
			l.serve(t, addr, func(c *peer) {
				if first, _ := c.r.Peek(1); string(first) == "\x01" {
					io.CopyN(c.Conn, noise(1, much), much)
				}
				io.Copy(c.Conn, struct{ io.Reader }{c.r}) // without a pipe of its own
			})
			before := pipesAfterGC()
			l.start(t, &mitm.Proxy{}, w)
			clients := make([]*peer, connections)
			for i := range clients {
				clients[i] = l.client.dial(t, "", addr)
				if i%20 == 0 {
					clients[i].send("\x01")
					io.CopyN(io.Discard, clients[i].r, much)
				} else {
					clients[i].send("\x00")
				}
				clients[i].read(1)
			}
			left := pipesAfterGC()
			for end := time.Now().Add(patience); left > before && time.Now().Before(end); left = pipesAfterGC() {
			}
			if left > before {
				t.Errorf("%d connections hold %d pipes", connections, left-before)
			}
			for _, c := range clients {
				c.send("still there")
				if got := c.read(11); got != "still there" {
					t.Errorf("got %q", got)
				}
			}
		})
	}
}

// pipesAfterGC leaves out the pipes that package net keeps to use them again.
func pipesAfterGC() int {
	runtime.GC()
	runtime.GC()
	return len(descriptorsOf("pipe:"))
}

// A transparent proxy that listens by itself has a listener that fits its mode.
func TestInsideListenAndServe(t *testing.T) {
	l := newLab(t)
	eachWay(t, func(t *testing.T, w way, ip family) {
		addr := ip.server(1, 80)
		port := freePort(t)
		l.web(t, addr)
		var router *namespace
		p := &mitm.Proxy{Mode: w.mode}
		served := make(chan error, 1)
		go func() { served <- p.ListenAndServe(":" + port) }()
		router.run(t, strings.ReplaceAll(w.rules, "PORT", port)+"\n", "nft", "-f", "-")
		defer func() {
			router.run(t, "flush ruleset\n", "nft", "-f", "-")
			p.Close()
			if err := <-served; err != mitm.ErrProxyClosed {
				t.Errorf("ListenAndServe returned %v", err)
			}
		}()
		var d net.Dialer
		d.SetMultipathTCP(true)
		for end := time.Now().Add(patience); ; runtime.Gosched() {
			var nc net.Conn
			var err error
			l.client.do(func() { nc, err = d.Dial("tcp", addr) })
			if errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end) {
				continue // it does not listen yet
			}
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			c := newPeer(t, nc)
			c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
			wantBody(t, c, addr)
			return
		}
	})
}

// freePort returns a port of all addresses that nobody uses.
func freePort(t *testing.T) string {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Without the capability errors say which one it is.
func TestTransparentCapabilities(t *testing.T) {
	if os.Geteuid() == 0 && os.Getenv(labVariable) != "powerless" {
		runPowerless(t)
		return
	}
	wants := func(err error, option string) {
		t.Helper()
		want := option + " needs the capability CAP_NET_ADMIN or CAP_NET_RAW"
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, syscall.EPERM) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	_, err := mitm.Transparent{TPROXY: true}.Listen("127.0.0.1:0")
	wants(err, "IP_TRANSPARENT")
	addr := echo(t)
	for option, mode := range map[string]mitm.Transparent{"SO_MARK": {Mark: 1}, "IP_TRANSPARENT": {SpoofSource: true}} {
		mode.Lookup = lookup(addr)
		done, flows := doneHook()
		c := dial(t, start(t, &mitm.Proxy{Mode: mode, Hooks: []mitm.Hook{done}}))
		c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		c.wantStatus(502)
		wants(nextFlow(t, flows).Err, option)
	}
}

// runPowerless runs the test in a user namespace, in which root has no power over the
// network outside of it.
func runPowerless(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), labVariable+"=powerless")
	cmd.SysProcAttr = newNetwork(true)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	skipUnless(t, !cannotUnshare(err), "needs user namespaces")
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Error("without capabilities:", err)
	}
}
