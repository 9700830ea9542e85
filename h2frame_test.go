package mitm_test

import (
	"encoding/binary"
	"io"
)

// Frame types (RFC 9113, section 6).
const (
	frameData = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindow
	frameContinuation
)

// Flags of frames; endStream is the ack of SETTINGS and PING.
const (
	endStream  = 1
	endHeaders = 4
	padded     = 8
	priority   = 32
)

// Error codes (RFC 9113, section 7) that tests look at.
const (
	codeProtocol    = 1
	codeFlowControl = 3
	codeFrameSize   = 6
	codeRefused     = 7
	codeCancel      = 8
	codeCompression = 9
)

// Settings (RFC 9113, section 6.5.2).
const (
	settingPush       = 2
	settingMaxStreams = 3
	settingWindow     = 4
	settingFrameSize  = 5
	settingHeaderList = 6
)

const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func (p *h2peer) sendSettings(settings ...uint32) {
	var b []byte
	for i := 0; i < len(settings); i += 2 {
		b = binary.BigEndian.AppendUint16(b, uint16(settings[i]))
		b = binary.BigEndian.AppendUint32(b, settings[i+1])
	}
	p.frame(frameSettings, 0, 0, b)
}

// frame sends a frame. Whether that worked shows when reading.
func (p *h2peer) frame(kind, flags byte, id uint32, payload []byte) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 9+len(payload)), uint32(len(payload))<<8|uint32(kind))
	b = binary.BigEndian.AppendUint32(append(b, flags), id)
	_, err := p.nc.Write(append(b, payload...))
	return err
}

// number sends a frame whose payload is a number.
func (p *h2peer) number(kind byte, id, n uint32) {
	p.frame(kind, 0, id, binary.BigEndian.AppendUint32(nil, n))
}

// readFrame reads a frame, without its padding and priority.
func (p *h2peer) readFrame() (kind, flags byte, id uint32, payload []byte, err error) {
	var h [9]byte
	if _, err = io.ReadFull(p.r, h[:]); err != nil {
		return 0, 0, 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[:4])
	kind, flags, id = h[3], h[4], binary.BigEndian.Uint32(h[5:])
	payload = make([]byte, n>>8)
	_, err = io.ReadFull(p.r, payload)
	if (kind == frameData || kind == frameHeaders) && flags&padded != 0 {
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	if kind == frameHeaders && flags&priority != 0 {
		payload = payload[5:]
	}
	return kind, flags, id, payload, err
}
