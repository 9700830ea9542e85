//go:build linux && !race

package mitm

import (
	"syscall"
	"unsafe"
)

// The system calls of the sockets' bytes are made without telling Go's scheduler, which is for
// calls that may wait. These don't: the sockets are non-blocking. Telling costs more than it
// seems, since it wakes the runtime's monitor thread, which then stays awake for a while: that
// took up to a quarter of the processor time of small exchanges. A caller writes at most
// bufferSize, so that nobody has to wait for the scheduler for long.
//
// The race detector follows bytes through package syscall, see socket_syscall.go.

func sysRead(fd uintptr, b []byte) (int, error) { return rawCall(syscall.SYS_READ, fd, b) }

func sysWrite(fd uintptr, b []byte) (int, error) { return rawCall(syscall.SYS_WRITE, fd, b) }

func rawCall(call, fd uintptr, b []byte) (int, error) {
	n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if err != 0 {
		return 0, err
	}
	return int(n), nil
}
