package mitm

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

func endsOf(from, to string) ends {
	return ends{netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)}
}

// Whichever of the two comes second knows that it is a loop.
func TestLoopGuard(t *testing.T) {
	t.Parallel()
	loop := endsOf("192.0.2.1:40000", "198.51.100.1:80")
	for name, other := range map[string]ends{
		"another port":        endsOf("192.0.2.1:40001", "198.51.100.1:80"),
		"another address":     endsOf("192.0.2.2:40000", "198.51.100.1:80"),
		"another destination": endsOf("192.0.2.1:40000", "198.51.100.2:80"),
		"another service":     endsOf("192.0.2.1:40000", "198.51.100.1:81"),
		"backwards":           endsOf("198.51.100.1:80", "192.0.2.1:40000"),
	} {
		var g loopGuard
		if is, _ := g.dial(loop, 0); is {
			t.Errorf("%s: the first is a loop", name)
		}
		if is, done := g.accept(other); is {
			t.Errorf("%s is a loop", name)
		} else {
			done()
		}
		if is, _ := g.accept(loop); !is {
			t.Errorf("%s: accepted after dialled is no loop", name)
		}
		if is, _ := g.dial(loop, 0); !is {
			t.Errorf("%s: dialled after accepted is no loop", name)
		}
	}
}

// A client that was there before is no loop, though it has the port that was dialled from.
func TestLoopGuardSamePort(t *testing.T) {
	t.Parallel()
	var g loopGuard
	e := endsOf("127.0.0.1:40000", "127.0.0.1:80")
	g.accept(e)
	since := g.now()
	is, done := g.dial(e, since)
	if is {
		t.Error("accepted before it was dialled, and a loop")
	}
	done()
	g.accept(e)
	if is, _ := g.dial(e, since); !is {
		t.Error("accepted while it was dialled, and no loop")
	}
}

// What is over is forgotten, but not as long as there is another one like it.
func TestLoopGuardForgets(t *testing.T) {
	t.Parallel()
	var g loopGuard
	e := endsOf("192.0.2.1:40000", "198.51.100.1:80")
	_, done1 := g.dial(e, 0)
	_, done2 := g.dial(e, 0)
	done1()
	if is, done := g.accept(e); !is {
		t.Error("forgotten too early")
	} else {
		done()
	}
	done2()
	if is, done := g.accept(e); is {
		t.Error("not forgotten")
	} else {
		done()
	}
	if len(g.dialled)+len(g.accepted) > 0 {
		t.Errorf("left: %v, %v", g.dialled, g.accepted)
	}
}

// Of two that come at once at least one knows.
func TestLoopGuardRace(t *testing.T) {
	t.Parallel()
	for range 1000 {
		var g loopGuard
		e := endsOf("192.0.2.1:40000", "198.51.100.1:80")
		var dialled, accepted bool
		var both sync.WaitGroup
		both.Go(func() { dialled, _ = g.dial(e, 0) })
		both.Go(func() { accepted, _ = g.accept(e) })
		both.Wait()
		if !dialled && !accepted {
			t.Fatal("nobody noticed")
		}
	}
}

func TestIsDirect(t *testing.T) {
	t.Parallel()
	any, one := &net.TCPAddr{IP: net.IPv6zero, Port: 8080}, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	for _, test := range []struct {
		dst      string
		listener net.Addr
		want     bool
	}{
		{"127.0.0.1:8080", any, true},
		{"127.0.0.1:8080", one, true},
		{"127.0.0.2:8080", any, true},
		{"[::1]:8080", any, true},
		{"127.0.0.1:8081", any, false},
		{"192.0.2.1:8080", any, false},
		{"[2001:db8::1]:8080", any, false},
		{"127.0.0.1:8080", nil, false},
		{"127.0.0.1:8080", &net.UnixAddr{Name: "x"}, false},
	} {
		if got := isDirect(netip.MustParseAddrPort(test.dst), test.listener); got != test.want {
			t.Errorf("%s at %v: %v", test.dst, test.listener, got)
		}
	}
}
