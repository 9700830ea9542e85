//go:build !unix

package mitm

import "errors"

// canWaitUnbuffered: elsewhere a read needs its buffer while it waits.
const canWaitUnbuffered = false

var errWouldBlock = errors.ErrUnsupported

func readSocket(uintptr, []byte) (int, error)  { return 0, errors.ErrUnsupported }
func writeSocket(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
