package mitm

import (
	"net"
	"os"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A signal in the middle of a look at an idle connection does not make it look busy.
func TestPendingInterrupted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s := newStream(nc)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread, stop := unix.Gettid(), make(chan bool)
	var signals sync.WaitGroup
	signals.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				unix.Tgkill(os.Getpid(), thread, unix.SIGURG) // as the runtime does to preempt
			}
		}
	})
	defer signals.Wait()
	defer close(stop)
	for i := range 10_000 {
		if s.pending() {
			t.Fatalf("busy at look %d: %v", i, s.err)
		}
	}
}
