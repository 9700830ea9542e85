package mitm

import "syscall"

// socksErrnos are the errors of a dial that have a reply code of their own (RFC 1928, section 6), by
// the numbers of Windows Sockets: those in package syscall are made up.
var socksErrnos = map[syscall.Errno]socksReply{
	10013: socksNotAllowed,         // WSAEACCES
	10047: socksAddressUnsupported, // WSAEAFNOSUPPORT
	10050: socksNetUnreachable,     // WSAENETDOWN
	10051: socksNetUnreachable,     // WSAENETUNREACH
	10060: socksTTLExpired,         // WSAETIMEDOUT
	10061: socksRefused,            // WSAECONNREFUSED
	10064: socksHostUnreachable,    // WSAEHOSTDOWN
	10065: socksHostUnreachable,    // WSAEHOSTUNREACH

	10024: socksGeneralFailure, // WSAEMFILE
	10035: socksGeneralFailure, // WSAEWOULDBLOCK, which would count as a timeout
	10048: socksGeneralFailure, // WSAEADDRINUSE
	10049: socksGeneralFailure, // WSAEADDRNOTAVAIL
	10055: socksGeneralFailure, // WSAENOBUFS
}
