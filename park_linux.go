package mitm

import (
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// parking watches sockets on which nothing is expected, all of them in one goroutine, which exists
// while there are any. The zero value is ready.
type parking struct {
	mu      sync.Mutex
	parked  map[uint64]*parked
	last    uint64   // key in parked
	epoll   *os.File // waits where every socket of package net waits too; nil: nothing is parked
	running sync.WaitGroup
}

// parked is a socket that is watched.
type parked struct {
	low  syscall.RawConn
	wake func()
}

// park calls wake once, in a goroutine of its own, when something has arrived at s, its end or an
// error, unless leave was called first. It holds up others, so it must not wait for long. While s is
// parked nobody reads from it.
func (p *parking) park(s *stream, wake func()) (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoll == nil && p.open() != nil {
		return nil // without descriptors it has to do without, too
	}
	p.last++
	key := p.last
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(key), Pad: int32(key >> 32)}
	p.parked[key] = &parked{s.low, wake}
	if p.control(unix.EPOLL_CTL_ADD, s.low, &event) != nil {
		p.take(key)
		return nil
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.take(key)
	}
}

// open starts to watch.
func (p *parking) open() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	unix.SetNonblock(fd, true) // or package os would not let it wait with the sockets
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return err
	}
	p.epoll, p.parked = file, map[uint64]*parked{}
	p.running.Go(func() { p.watch(raw) })
	return nil
}

// control changes what is known of a socket.
func (p *parking) control(op int, low syscall.RawConn, event *unix.EpollEvent) (err error) {
	epoll, err := p.epoll.SyscallConn()
	if err != nil {
		return err
	}
	outer := epoll.Control(func(efd uintptr) {
		if e := low.Control(func(fd uintptr) { err = unix.EpollCtl(int(efd), op, int(fd), event) }); e != nil {
			err = e
		}
	})
	if outer != nil {
		return outer
	}
	return err
}

// take ends the watch over a socket, and that over all if it was the last. It returns nil if the socket
// is not parked any more.
func (p *parking) take(key uint64) *parked {
	w := p.parked[key]
	if w == nil {
		return nil
	}
	delete(p.parked, key)
	p.control(unix.EPOLL_CTL_DEL, w.low, nil) // one that is closed is gone by itself
	if len(p.parked) == 0 {
		p.epoll.Close()
		p.epoll = nil
	}
	return w
}

// watch is the goroutine. It ends when the descriptor is closed.
func (p *parking) watch(epoll syscall.RawConn) {
	var events [64]unix.EpollEvent
	for {
		n := 0
		err := epoll.Read(func(fd uintptr) bool {
			var err error
			n, err = unix.EpollWait(int(fd), events[:], 0)
			return n > 0 || err != nil && err != unix.EINTR
		})
		if err != nil {
			return
		}
		for _, e := range events[:max(n, 0)] {
			p.mu.Lock()
			w := p.take(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32)
			p.mu.Unlock()
			if w != nil {
				w.wake()
			}
		}
	}
}

// close waits for the goroutine. Nothing is parked any more, nor will be.
func (p *parking) close() { p.running.Wait() }
