//go:build unix

package mitm

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// parkedPair is a connection of which one end is a stream.
func parkedPair(t *testing.T) (*stream, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); far.Close() })
	return newStream(nc), far
}

// Whatever happens on a socket wakes, once, and only on that one; also what has happened before.
func TestR67_Park(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(nc net.Conn){
		"bytes": func(nc net.Conn) { nc.Write([]byte("x")) },
		"FIN":   func(nc net.Conn) { nc.(*net.TCPConn).CloseWrite() },
		"end":   func(nc net.Conn) { nc.Close() },
		"reset": func(nc net.Conn) { nc.(*net.TCPConn).SetLinger(0); nc.Close() },
	} {
		for _, before := range []bool{false, true} {
			var p parking
			quiet, far := parkedPair(t)
			s, peer := parkedPair(t)
			if before {
				happens(peer)
			}
			woken, other := make(chan bool, 8), make(chan bool, 8)
			leaveQuiet := p.park(quiet, func() { other <- true })
			leave := p.park(s, func() { woken <- true })
			if !before {
				happens(peer)
			}
			select {
			case <-woken:
			case <-time.After(10 * time.Second):
				t.Errorf("%s, before %v: it was not noticed", name, before)
			}
			leave()
			leaveQuiet()
			far.Close()
			p.close()
			if len(woken)+len(other) > 0 {
				t.Errorf("%s, before %v: woken too often", name, before)
			}
		}
	}
}

// What has left is not woken, and the goroutine ends with the last one; then it begins anew.
func TestR67_ParkLeave(t *testing.T) {
	t.Parallel()
	var p parking
	for range 3 {
		var woken atomic.Int32
		var leaves []func()
		var far []net.Conn
		for range 20 {
			s, peer := parkedPair(t)
			leaves, far = append(leaves, p.park(s, func() { woken.Add(1) })), append(far, peer)
		}
		for _, leave := range leaves {
			leave()
			leave()
		}
		for _, nc := range far {
			nc.Close()
		}
		p.close()
		if woken.Load() > 0 || len(p.parked) > 0 {
			t.Errorf("%d woken, %d left", woken.Load(), len(p.parked))
		}
	}
}

// A socket that is closed while it is parked is no harm.
func TestR67_ParkClosed(t *testing.T) {
	t.Parallel()
	var p parking
	s, _ := parkedPair(t)
	leave := p.park(s, func() {})
	s.close()
	leave()
	p.close()
}

// Tickets on an idle connection do not make it unusable; one that is used again is not watched.
func TestR67_PoolWatch(t *testing.T) {
	t.Parallel()
	p := &pool{keep: time.Hour}
	s, far := parkedPair(t)
	o := &origin{s: s, key: originKey{addr: "origin.test:80"}}
	p.put(o)
	o.idleSince = o.idleSince.Add(-time.Minute)
	p.watch()
	if o.unpark == nil {
		t.Fatal("it is not watched")
	}
	if p.get(o.key) != o || o.unpark != nil || !o.quiet() {
		t.Error("it was not to be had, or is watched still")
	}
	p.put(o)
	o.idleSince = o.idleSince.Add(-time.Minute)
	p.watch()
	far.Close()
	buf := make([]byte, 1)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if p.mu.Lock(); p.count == 0 {
			p.mu.Unlock()
			break
		}
		p.mu.Unlock()
		far.Read(buf)
	}
	p.close()
	if p.count != 0 || p.get(o.key) != nil {
		t.Error("it is still there")
	}
}
