//go:build unix

package mitm

import (
	"io"

	"golang.org/x/sys/unix"
)

// polled is what poll(2) works on.
type polled [1]unix.PollFd

// pollSocket leaves in s.err what a read would meet: errWouldBlock if it had to wait,
// nil for bytes or an orderly end, io.ErrClosedPipe if the connection is no more.
func (s *stream) pollSocket(fd uintptr) {
	s.polled[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(s.polled[:], 0)
	for err == unix.EINTR { // a signal, as the runtime sends them, says nothing about the socket
		n, err = unix.Poll(s.polled[:], 0)
	}
	switch {
	case n == 0 && err == nil:
		err = errWouldBlock
	case s.polled[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0:
		err = io.ErrClosedPipe
	}
	s.err = err
}
