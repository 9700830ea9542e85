//go:build !linux

package mitm

import "syscall"

// transparentSocket has nothing to do: divert-to of OpenBSD and fwd of FreeBSD need no
// option.
func transparentSocket(_, _ string, _ syscall.RawConn) error { return nil }

func markSocket(syscall.RawConn, int) error { return redirectSupported() }

func spoofSocket(syscall.RawConn) error { return redirectSupported() }

func (s *stream) acked() uint64 { return 0 }

// networkOf can't tell, nor can isIPv6Only.
func networkOf(syscall.RawConn) uint64 { return 0 }

func isIPv6Only(syscall.RawConn) bool { return false }
