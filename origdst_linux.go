package mitm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST for IPv4 and IP6T_SO_ORIGINAL_DST for IPv6, which x/sys
// does not have (linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// redirectSupported returns nil: the kernel can be asked where redirected clients wanted
// to go, and sockets can be given a mark or a foreign source address.
func redirectSupported() error { return nil }

// originalDst asks the kernel where the client of nc wanted to go before a NAT rule led it
// here. A connection that no rule led here is ErrNotRedirected.
func originalDst(nc net.Conn) (netip.AddrPort, error) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("original destination of a %T: %w", nc, errors.ErrUnsupported)
	}
	local, ok := addrPort(tc.LocalAddr())
	if !ok {
		return netip.AddrPort{}, net.ErrClosed
	}
	raw, err := tc.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var dst netip.AddrPort
	if ctlErr := raw.Control(func(fd uintptr) {
		// The family that counts is that of the address: an IPv4 client of a socket that
		// listens for both is asked for as IPv4.
		if local.Addr().Is4() {
			dst, err = originalDst4(int(fd))
		} else {
			dst, err = originalDst6(int(fd))
		}
	}); ctlErr != nil {
		return netip.AddrPort{}, ctlErr
	}
	return dst, explainOriginalDst(tc, dst, local, err)
}

// originalDst4 reads a sockaddr_in of 16 bytes: family, port, address. The 20 bytes that
// GetsockoptIPv6Mreq asks for hold it.
func originalDst4(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr := netip.AddrFrom4([4]byte(v.Multiaddr[4:8]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(v.Multiaddr[2:4])), nil
}

// originalDst6 reads a sockaddr_in6, with which the result of GetsockoptIPv6MTUInfo begins.
func originalDst6(fd int) (netip.AddrPort, error) {
	v, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var port [2]byte // in network order, whatever the machine's order is
	binary.NativeEndian.PutUint16(port[:], v.Addr.Port)
	addr := netip.AddrFrom16(v.Addr.Addr)
	if v.Addr.Scope_id != 0 {
		addr = addr.WithZone(zoneName(int(v.Addr.Scope_id)))
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port[:])), nil
}

// zoneName returns the name of a network interface, or its number.
func zoneName(index int) string {
	if i, err := net.InterfaceByIndex(index); err == nil {
		return i.Name
	}
	return fmt.Sprint(index)
}

// explainOriginalDst makes an error that says what to do. Without a NAT rule the kernel
// knows nothing of the connection, or knows that it is where it wanted to go.
func explainOriginalDst(tc *net.TCPConn, dst, local netip.AddrPort, err error) error {
	multipath, _ := tc.MultipathTCP()
	switch {
	case err == nil && dst != local:
		return nil
	case err == nil, errors.Is(err, unix.ENOENT):
		return ErrNotRedirected
	case errors.Is(err, unix.EOPNOTSUPP) && multipath:
		return fmt.Errorf("original destination of a Multipath TCP connection: %w: use Transparent.Listen, "+
			"or a ListenConfig with SetMultipathTCP(false)", errors.ErrUnsupported)
	case errors.Is(err, unix.ENOPROTOOPT):
		return fmt.Errorf("original destination: the kernel has no connection tracking: %w", errors.ErrUnsupported)
	}
	return fmt.Errorf("original destination: %w", err)
}
