package mitm

import "sync"

// bufferSize is what one read takes at most. It is also the size of every pooled buffer: large
// enough that bulk copying is not dominated by system calls, and that a message of 64 KiB, which
// many programs write at once, is read and written at once, with its head.
const bufferSize = 72 << 10

// buffers is scratch memory for all streams. An idle connection holds none of it.
var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func takeBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:] }

// giveBuffer takes b back unless it grew beyond the pooled size.
func giveBuffer(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}
