//go:build !linux

package mitm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"
)

// redirectSupported says what is missing outside Linux.
func redirectSupported() error {
	return fmt.Errorf("transparent mode by NAT, a socket mark or source spoofing on %s: %w: set Transparent.Lookup, "+
		"or Transparent.TPROXY where the rule keeps the destination as the local address", runtime.GOOS, errors.ErrUnsupported)
}

func originalDst(net.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, redirectSupported()
}

// transparentSocket has nothing to do: divert-to of OpenBSD and fwd of FreeBSD need no
// option.
func transparentSocket(_, _ string, _ syscall.RawConn) error { return nil }

func markSocket(syscall.RawConn, int) error { return redirectSupported() }

func spoofSocket(syscall.RawConn) error { return redirectSupported() }
