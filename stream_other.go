//go:build !unix

package mitm

type polled struct{}

func (s *stream) pollSocket(uintptr) { s.err = errWouldBlock }
