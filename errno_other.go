//go:build !windows

package mitm

import "syscall"

// socksErrnos are the errors of a dial that have a reply code of their own (RFC 1928, section 6).
// What the proxy's own system lacks, such as descriptors, ports or memory, is a general failure.
var socksErrnos = map[syscall.Errno]socksReply{
	syscall.EACCES:       socksNotAllowed, // a firewall of ours, or a route that prohibits
	syscall.EPERM:        socksNotAllowed,
	syscall.ENETDOWN:     socksNetUnreachable,
	syscall.ENETUNREACH:  socksNetUnreachable,
	syscall.EHOSTDOWN:    socksHostUnreachable,
	syscall.EHOSTUNREACH: socksHostUnreachable,
	syscall.ECONNREFUSED: socksRefused,
	syscall.ETIMEDOUT:    socksTTLExpired,
	syscall.EAFNOSUPPORT: socksAddressUnsupported,

	syscall.EMFILE:        socksGeneralFailure,
	syscall.ENFILE:        socksGeneralFailure,
	syscall.ENOBUFS:       socksGeneralFailure,
	syscall.ENOMEM:        socksGeneralFailure,
	syscall.EADDRINUSE:    socksGeneralFailure,
	syscall.EADDRNOTAVAIL: socksGeneralFailure,
	syscall.EAGAIN:        socksGeneralFailure, // which would count as a timeout
}
