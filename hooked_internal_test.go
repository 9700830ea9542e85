package mitm

import (
	"testing"
	"unsafe"
)

// TestHookedSize: what an exchange with hooks allocates in one piece fits the size class that it is in, which
// also holds 8 bytes of the runtime's. One more byte would take the next class, of 4096.
func TestHookedSize(t *testing.T) {
	const class = 3456 - 8
	if size := unsafe.Sizeof(hookedExchange{}); size > class && unsafe.Sizeof(uintptr(0)) == 8 {
		t.Errorf("a hookedExchange takes %d bytes, more than %d", size, class)
	}
}
