package mitm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
)

// This file is the wire format of SOCKS5 (RFC 1928) with user names and passwords (RFC
// 1929), the server's side. Parsers take what came so far: they return the length of a
// complete message, 0 if more is needed, or an error.

const (
	socks4Version = 4
	socks5Version = 5
	socksAuthTry  = 1 // version of the user/password negotiation (RFC 1929, section 2)
)

// Authentication methods (RFC 1928, section 3).
const (
	socksNoAuth       = 0x00
	socksPassword     = 0x02
	socksNoAcceptable = 0xFF
)

// Commands and address types (RFC 1928, sections 4 and 5).
const (
	socksConnect = 1
	socksIPv4    = 1
	socksDomain  = 3
	socksIPv6    = 4
)

// socksReply is a reply code (RFC 1928, section 6).
type socksReply byte

const (
	socksSucceeded          socksReply = 0
	socksGeneralFailure     socksReply = 1
	socksNotAllowed         socksReply = 2
	socksNetUnreachable     socksReply = 3
	socksHostUnreachable    socksReply = 4
	socksRefused            socksReply = 5
	socksTTLExpired         socksReply = 6
	socksCommandUnsupported socksReply = 7
	socksAddressUnsupported socksReply = 8
)

// Errors of SOCKS messages.
var (
	errSOCKSVersion = errors.New("not SOCKS version 5 (RFC 1928, section 3)")
	errSOCKSAuth    = errors.New("malformed user name and password (RFC 1929, section 2)")
	errSOCKSCommand = errors.New("SOCKS command other than CONNECT (RFC 1928, section 4)")
	errSOCKSAddress = errors.New("unknown SOCKS address type (RFC 1928, section 5)")
	errSOCKSHost    = errors.New("invalid host or port in SOCKS request (RFC 1928, section 5)")
	errSOCKSMethods = errors.New("no acceptable SOCKS authentication method (RFC 1928, section 3)")
)

// parseSOCKSGreeting returns the methods that the client offers (RFC 1928, section 3).
func parseSOCKSGreeting(b []byte) (methods []byte, n int, err error) {
	if len(b) > 0 && b[0] != socks5Version {
		return nil, 0, errSOCKSVersion
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return nil, 0, nil
	}
	n = 2 + int(b[1])
	return b[2:n], n, nil
}

// chooseSOCKSMethod chooses from what was offered.
func chooseSOCKSMethod(methods []byte, password bool) byte {
	want := byte(socksNoAuth)
	if password {
		want = socksPassword
	}
	if bytes.IndexByte(methods, want) < 0 {
		return socksNoAcceptable
	}
	return want
}

// parseSOCKSPassword returns user name and password (RFC 1929, section 2).
func parseSOCKSPassword(b []byte) (user, password []byte, n int, err error) {
	if len(b) > 0 && b[0] != socksAuthTry {
		return nil, nil, 0, errSOCKSAuth
	}
	if len(b) < 2 || len(b) < 2+int(b[1])+1 {
		return nil, nil, 0, nil
	}
	user, rest := b[2:2+int(b[1])], b[2+int(b[1]):]
	if len(rest) < 1+int(rest[0]) {
		return nil, nil, 0, nil
	}
	return user, rest[1 : 1+int(rest[0])], 2 + len(user) + 1 + int(rest[0]), nil
}

// parseSOCKSRequest returns the destination of a CONNECT as host:port (RFC 1928, section
// 4). Of another command or address type it returns as much of an error as the reply needs.
func parseSOCKSRequest(b []byte) (addr string, n int, err error) {
	const fixed = 4 // version, command, reserved, address type
	if len(b) > 0 && b[0] != socks5Version {
		return "", 0, errSOCKSVersion
	}
	if len(b) < fixed+1 {
		return "", 0, nil
	}
	if b[1] != socksConnect {
		return "", 0, errSOCKSCommand
	}
	start, length := fixed, 0
	switch b[3] {
	case socksIPv4:
		length = net.IPv4len
	case socksIPv6:
		length = net.IPv6len
	case socksDomain:
		start, length = fixed+1, int(b[fixed])
	default:
		return "", 0, errSOCKSAddress
	}
	if n = start + length + 2; len(b) < n {
		return "", 0, nil
	}
	host, ok := socksHost(b[3], b[start:start+length])
	port := binary.BigEndian.Uint16(b[start+length:])
	if !ok || port == 0 {
		return "", 0, errSOCKSHost
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port))), n, nil
}

// socksHost checks a domain name as strictly as that of a request target, since it goes to
// the resolver and into logs, and likewise returns it in lower case, so that hooks see one
// spelling.
func socksHost(kind byte, b []byte) (host string, ok bool) {
	if kind != socksDomain {
		ip, ok := netip.AddrFromSlice(b)
		return ip.String(), ok
	}
	if ip, err := netip.ParseAddr(string(b)); err == nil && ip.Zone() == "" {
		return ip.String(), true
	}
	ok = len(b) > 0 && bytes.IndexByte(b, ':') < 0 && bytes.IndexByte(b, '[') < 0 && validAuthority(b)
	return string(bytes.ToLower(b)), ok
}

// appendSOCKSReply appends a reply. The bound address is left open, as clients of CONNECT
// do not use it.
func appendSOCKSReply(dst []byte, code socksReply) []byte {
	return append(dst, socks5Version, byte(code), 0, socksIPv4, 0, 0, 0, 0, 0, 0)
}

// appendSOCKS4Refusal is "request rejected or failed" of SOCKS4.
func appendSOCKS4Refusal(dst []byte) []byte {
	return append(dst, 0, 91, 0, 0, 0, 0, 0, 0)
}
