//go:build unix

package mitm

import (
	"os"
	"syscall"
)

// canWaitUnbuffered: a socket tells that it is readable before a buffer is needed.
const canWaitUnbuffered = true

const errWouldBlock = syscall.EAGAIN

// readSocket reads what is there, without waiting.
func readSocket(fd uintptr, b []byte) (int, error) { return transfer(sysRead, "read", fd, b) }

// writeSocket writes what there is room for, without waiting.
func writeSocket(fd uintptr, b []byte) (int, error) { return transfer(sysWrite, "write", fd, b) }

func transfer(call func(uintptr, []byte) (int, error), name string, fd uintptr, b []byte) (int, error) {
	for {
		n, err := call(fd, b)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case errWouldBlock:
			return 0, err
		default:
			return 0, os.NewSyscallError(name, err)
		}
	}
}
