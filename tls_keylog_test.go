package mitm_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/mitm"
)

// tape is what went over a TCP connection.
type tape struct {
	mu       sync.Mutex
	segments []segment
}

type segment struct {
	fromClient bool
	data       []byte
}

func (tp *tape) add(fromClient bool, data []byte) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.segments = append(tp.segments, segment{fromClient, bytes.Clone(data)})
}

// tapedConn is the client's end of a connection.
type tapedConn struct {
	net.Conn
	tape *tape
}

func (c tapedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tape.add(false, p[:n])
	return n, err
}

// Write records first: what answers comes later.
func (c tapedConn) Write(p []byte) (int, error) {
	c.tape.add(true, p)
	return c.Conn.Write(p)
}

// appendPackets makes packets of pcap's link type 101 (raw IP) of what went between port of a
// client and port 443, as if each segment had been acknowledged at once.
func (tp *tape) appendPackets(b []byte, port uint16) []byte {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	const syn, ack, push = 0x02, 0x10, 0x08
	seq := map[bool]uint32{true: 1000, false: 2000} // by direction
	packet := func(fromClient bool, flags byte, data []byte) {
		const headers = 20 + 20
		b = binary.LittleEndian.AppendUint64(b, 0) // time
		b = binary.LittleEndian.AppendUint32(b, uint32(headers+len(data)))
		b = binary.LittleEndian.AppendUint32(b, uint32(headers+len(data)))
		from, to, fromPort, toPort := byte(1), byte(2), port, uint16(443)
		if !fromClient {
			from, to, fromPort, toPort = to, from, toPort, fromPort
		}
		b = binary.BigEndian.AppendUint16(append(b, 0x45, 0), uint16(headers+len(data)))
		b = append(b, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, from, 192, 0, 2, to) // no checksum
		b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, fromPort), toPort)
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, seq[fromClient]), seq[!fromClient])
		b = append(append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0), data...)
		seq[fromClient] += uint32(len(data)) + uint32(flags&syn)/syn
	}
	packet(true, syn, nil)
	packet(false, syn|ack, nil)
	for _, s := range tp.segments {
		for data := range slices.Chunk(s.data, 1400) {
			packet(s.fromClient, push|ack, data)
		}
	}
	return b
}

// pcapHeader is that of a file of raw IP packets.
func pcapHeader() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, 65535), 101)
}

// With the key log a recording of either side of the proxy can be read, and not without.
func TestKeyLog(t *testing.T) {
	lookTool(t, "tshark")
	f, ca, dir := newFarm(t), newCA(t), t.TempDir()
	f.serve("site.test", &tls.Config{Certificates: []tls.Certificate{f.root.leaf("site.test", newKey(t), nil)}})
	f.addrs[transparentAddr.Addr().String()] = f.addrs["site.test"]
	keys, err := os.Create(filepath.Join(dir, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	capture, port, wants := pcapHeader(), uint16(40000), ""
	eachSecureClient(t, func(t *testing.T, c secureClient) {
		var toProxy, toOrigin tape
		taping := func(tp *tape, dial mitm.DialFunc) mitm.DialFunc {
			return func(ctx context.Context, network, addr string) (net.Conn, error) {
				nc, err := dial(ctx, network, addr)
				return tapedConn{nc, tp}, err
			}
		}
		proxy := start(t, &mitm.Proxy{
			Mode: mitm.Transparent{Lookup: func(net.Conn) (netip.AddrPort, error) { return transparentAddr, nil }},
			CA:   ca, KeyLogWriter: keys, Dial: taping(&toOrigin, f.dial), OriginTLS: &tls.Config{RootCAs: f.root.pool()},
			Hooks: []mitm.Hook{mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
				req.URL.Path = "/changed"
				return nil, nil
			})},
		})
		client := c.through(proxy, ca)
		client.Transport.(*http.Transport).Proxy = nil
		client.Transport.(*http.Transport).DialContext = taping(&toProxy, dialTo(proxy))
		want(t, getOnce(t, client, "https://site.test/asked"), c.protocol+" /changed")
		capture = toProxy.appendPackets(capture, port)
		capture = toOrigin.appendPackets(capture, port+1)
		wants += fmt.Sprintf("%d /asked\n%d /changed\n", port, port+1)
		port += 2
	})
	file := filepath.Join(dir, "pcap")
	if err := os.WriteFile(file, capture, 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, requestsIn(t, file, keys.Name()), wants)
	want(t, requestsIn(t, file, os.DevNull), "")
}

// requestsIn decrypts a capture and returns the client's port and the path of each request.
func requestsIn(t *testing.T, file, keys string) string {
	t.Helper()
	out := run(t, "tshark", "-n", "-r", file, "-o", "tls.keylog_file:"+keys, "-Y", "tls and (http.request or http2.headers.path)",
		"-T", "fields", "-e", "tcp.srcport", "-e", "http.request.uri", "-e", "http2.headers.path")
	var requests strings.Builder
	for line := range strings.Lines(out) {
		requests.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return requests.String()
}
