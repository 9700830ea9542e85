//go:build !linux

package mitm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
)

// redirectSupported says what is missing outside Linux.
func redirectSupported() error {
	return fmt.Errorf("transparent mode by NAT, a socket mark or source spoofing on %s: %w: set Transparent.Lookup, "+
		"or Transparent.TPROXY where the rule keeps the destination as the local address", runtime.GOOS, errors.ErrUnsupported)
}

func originalDst(net.Conn) (netip.AddrPort, error) {
	return netip.AddrPort{}, redirectSupported()
}
