//go:build unix && (!linux || race)

package mitm

import (
	"os"
	"syscall"
)

// readSocket reads what is there, without waiting.
func readSocket(fd uintptr, b []byte) (int, error) { return transfer(syscall.Read, "read", fd, b) }

// writeSocket writes what there is room for, without waiting.
func writeSocket(fd uintptr, b []byte) (int, error) { return transfer(syscall.Write, "write", fd, b) }

func transfer(call func(int, []byte) (int, error), name string, fd uintptr, b []byte) (int, error) {
	for {
		n, err := call(int(fd), b)
		switch err {
		case nil:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errWouldBlock
		default:
			return 0, os.NewSyscallError(name, err)
		}
	}
}
