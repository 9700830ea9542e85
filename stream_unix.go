//go:build unix

package mitm

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// canWaitUnbuffered: a socket tells that it is readable before a buffer is needed.
const canWaitUnbuffered = true

const errWouldBlock = unix.EAGAIN

// readSocket reads what is there, without waiting.
func readSocket(fd uintptr, b []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), b)
		if err == unix.EINTR {
			continue
		}
		if err != nil && err != errWouldBlock {
			err = os.NewSyscallError("read", err)
		}
		return n, err
	}
}

// peekSocket leaves in s.err what a read would meet: errWouldBlock if it had to wait,
// nil for bytes, or the end or error of the connection.
func (s *stream) peekSocket(fd uintptr) {
	n, _, err := unix.Recvfrom(int(fd), s.peeked[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if n == 0 && err == nil {
		err = io.EOF
	}
	s.err = err
}
