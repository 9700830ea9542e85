package mitm

import (
	"crypto/tls"
	"encoding/binary"
	"strings"
)

// This file reads ClientHellos that crypto/tls refuses (RFC 8446, section 4.1.2). They are
// ClientHellos all the same: the origin may accept them.

// Types of records and messages, and the sizes of their headers (RFC 8446, sections 4 and 5.1).
const (
	recordChangeCipher = 20
	recordHandshake    = 22
	recordHeader       = 5
	messageClientHello = 1
	messageHeader      = 4
)

// Extensions of a ClientHello (IANA, TLS ExtensionType Values).
const (
	extensionServerName          = 0
	extensionSupportedGroups     = 10
	extensionPointFormats        = 11
	extensionSignatureAlgorithms = 13
	extensionALPN                = 16
	extensionSupportedVersions   = 43
)

// cutHello returns the first handshake message of the records in b, as much of it as is there, and how
// many bytes of b the records take that it is in.
func cutHello(b []byte) (message []byte, size int) {
	for at := 0; at+recordHeader <= len(b); {
		end := min(len(b), at+recordHeader+int(binary.BigEndian.Uint16(b[at+3:])))
		if b[at] == recordHandshake { // and no warning in front of it
			message = append(message, b[at+recordHeader:end]...)
		}
		at, size = end, end
		if len(message) >= messageHeader {
			if n := messageHeader + int(binary.BigEndian.Uint32(message)&0xffffff); len(message) >= n {
				return message[:n], size
			}
		}
	}
	return message, len(b)
}

// readHello returns what a ClientHello says, as far as it can be read.
func readHello(message []byte) *tls.ClientHelloInfo {
	var info tls.ClientHelloInfo
	hello := wire(message)
	hello.take(messageHeader)
	version := hello.uint16()
	hello.take(32)  // random
	hello.vector(1) // legacy_session_id
	info.CipherSuites = hello.vector(2).uint16s()
	hello.vector(1) // legacy_compression_methods
	for extensions := hello.vector(2); len(extensions) > 0; {
		kind := extensions.uint16()
		info.Extensions = append(info.Extensions, kind)
		readExtension(&info, kind, extensions.vector(2))
	}
	if info.SupportedVersions == nil && version > 0 {
		for v := min(version, tls.VersionTLS12); v >= tls.VersionTLS10; v-- {
			info.SupportedVersions = append(info.SupportedVersions, v)
		}
	}
	return &info
}

func readExtension(info *tls.ClientHelloInfo, kind uint16, data wire) {
	switch kind {
	case extensionServerName: // RFC 6066, section 3
		for names := data.vector(2); len(names) > 0 && info.ServerName == ""; {
			const hostName = 0
			kind, name := names.take(1), names.vector(2)
			if len(kind) > 0 && kind[0] == hostName {
				info.ServerName = string(name)
			}
		}
	case extensionALPN: // RFC 7301, section 3.1
		for names := data.vector(2); len(names) > 0; {
			if name := names.vector(1); len(name) > 0 {
				info.SupportedProtos = append(info.SupportedProtos, string(name))
			}
		}
	case extensionSupportedVersions:
		info.SupportedVersions = data.vector(1).uint16s()
	case extensionSupportedGroups:
		for _, group := range data.vector(2).uint16s() {
			info.SupportedCurves = append(info.SupportedCurves, tls.CurveID(group))
		}
	case extensionSignatureAlgorithms:
		for _, scheme := range data.vector(2).uint16s() {
			info.SignatureSchemes = append(info.SignatureSchemes, tls.SignatureScheme(scheme))
		}
	case extensionPointFormats:
		info.SupportedPoints = data.vector(1)
	}
}

// wire is what is left to be read of a structure of TLS (RFC 8446, section 3). What is cut short reads
// as what is there of it.
type wire []byte

func (w *wire) take(n int) wire {
	n = min(n, len(*w))
	taken := (*w)[:n:n]
	*w = (*w)[n:]
	return taken
}

func (w *wire) uint16() (v uint16) {
	for _, b := range w.take(2) {
		v = v<<8 | uint16(b)
	}
	return v
}

// vector takes one whose length stands in front of it, in so many bytes.
func (w *wire) vector(size int) wire {
	n := 0
	for _, b := range w.take(size) {
		n = n<<8 | int(b)
	}
	return w.take(n)
}

func (w wire) uint16s() (list []uint16) {
	for len(w) > 0 {
		list = append(list, w.uint16())
	}
	return list
}

// canonicalName returns the form in which names are compared: in lower case, without the dot that makes
// a name absolute.
func canonicalName(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }
