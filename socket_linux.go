//go:build linux && !race

package mitm

import (
	"os"
	"syscall"
	"unsafe"
)

// The system calls of the sockets' bytes are made without telling Go's scheduler, which is for
// calls that may wait. These don't: the sockets are non-blocking. Telling costs more than it
// seems, since it wakes the runtime's monitor thread, which then stays awake for a while: that
// took up to a quarter of the processor time of small exchanges. A caller writes at most
// bufferSize, so that nobody has to wait for the scheduler for long.
//
// The race detector follows bytes through package syscall, see socket_unix.go.

// readSocket reads what is there, without waiting.
func readSocket(fd uintptr, b []byte) (int, error) { return transfer(syscall.SYS_READ, "read", fd, b) }

// writeSocket writes what there is room for, without waiting.
func writeSocket(fd uintptr, b []byte) (int, error) {
	return transfer(syscall.SYS_WRITE, "write", fd, b)
}

func transfer(call uintptr, name string, fd uintptr, b []byte) (int, error) {
	for {
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch err {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, errWouldBlock
		default:
			return 0, os.NewSyscallError(name, err)
		}
	}
}
