package mitm

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// transparentSocket lets a listener accept connections to any address, as TPROXY rules
// need it. One option covers IPv4 and IPv6.
func transparentSocket(_, _ string, raw syscall.RawConn) error {
	return setSocketOption(raw, unix.SOL_IP, unix.IP_TRANSPARENT, 1, "IP_TRANSPARENT")
}

// markSocket and spoofSocket prepare a socket that is about to connect.
func markSocket(raw syscall.RawConn, mark int) error {
	return setSocketOption(raw, unix.SOL_SOCKET, unix.SO_MARK, mark, "SO_MARK")
}

// spoofSocket lets the socket have a foreign source address, whose port is chosen when
// the destination is known: a port can serve many destinations then.
func spoofSocket(raw syscall.RawConn) error {
	if err := setSocketOption(raw, unix.SOL_IP, unix.IP_TRANSPARENT, 1, "IP_TRANSPARENT"); err != nil {
		return err
	}
	return setSocketOption(raw, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1, "IP_BIND_ADDRESS_NO_PORT")
}

// acked returns how many bytes the peer has acknowledged, 0 if that can't be known.
func (s *stream) acked() (n uint64) {
	if s.low == nil {
		return 0
	}
	s.low.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = info.Bytes_acked
		}
	})
	return n
}

// networkOf returns a number of the network namespace that a socket is in, 0 if that can't be known
// (Linux before 5.14).
func networkOf(raw syscall.RawConn) (cookie uint64) {
	if raw != nil {
		raw.Control(func(fd uintptr) {
			cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		})
	}
	return cookie
}

// isIPv6Only reports whether a listener on all addresses of IPv6 is not one for IPv4 too.
func isIPv6Only(raw syscall.RawConn) (only bool) {
	if raw != nil {
		raw.Control(func(fd uintptr) {
			n, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
			only = err == nil && n != 0
		})
	}
	return only
}

func setSocketOption(raw syscall.RawConn, level, option, value int, name string) (err error) {
	if ctlErr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), level, option, value)
	}); ctlErr != nil {
		return ctlErr
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s needs the capability CAP_NET_ADMIN or CAP_NET_RAW: %w", name, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
