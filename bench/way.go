package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"
)

// way is how the load generator gets to the origin.
type way struct {
	// Dial is the address to connect to: that of the proxy, or of the origin where there
	// is none or the client knows nothing of it. Source, if any, is the address to connect
	// from.
	Dial, Source string
	// Forward is for proxies that are told where to go, by CONNECT or in the request line.
	Forward bool
	// Authority is host:port of the origin.
	Authority string
	// TLS starts TLS in the end, with Protocol, and verifies that the certificate is for
	// ServerName and by Roots. Resume keeps sessions for the next connection.
	TLS        bool
	ServerName string
	Protocol   string
	Roots      string
	Resume     bool

	wrap func(net.Conn) net.Conn // what is connected; nil: nothing
}

// limit is how long a connection of the load generator lives. Operations are not limited one
// by one, to save timers.
const limit = 10 * time.Minute

func (w *way) connect() (net.Conn, error) {
	var d net.Dialer
	if w.Source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(w.Source)}
	}
	nc, err := d.Dial("tcp", w.Dial)
	if err == nil {
		err = nc.SetDeadline(time.Now().Add(limit))
	}
	if err == nil && w.wrap != nil {
		nc = w.wrap(nc)
	}
	return nc, err
}

// tunnel connects, by CONNECT where the proxy needs it.
func (w *way) tunnel(authority string) (net.Conn, error) {
	nc, err := w.connect()
	if err != nil || !w.Forward {
		return nc, err
	}
	if err := connect(nc, authority); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

func connect(nc net.Conn, authority string) error {
	if _, err := nc.Write([]byte("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n")); err != nil {
		return err
	}
	br := bufio.NewReaderSize(nc, 1024)
	h, err := readHead(br)
	switch {
	case err != nil:
		return fmt.Errorf("CONNECT: %w", err)
	case !strings.HasPrefix(h.first, "HTTP/1.") || h.first[8:12] != " 200" || br.Buffered() > 0:
		return fmt.Errorf("CONNECT: %q", h.first)
	}
	return nil
}

// config is for connections to the origin by one name.
func (w *way) config(name string) *tls.Config {
	c := &tls.Config{RootCAs: pair{Cert: w.Roots}.roots(), ServerName: name, NextProtos: []string{w.Protocol}}
	if w.Resume {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	return c
}

// start connects for HTTP requests, with TLS if config is not nil.
func (w *way) start(authority string, config *tls.Config) (net.Conn, error) {
	if config == nil {
		return w.connect()
	}
	nc, err := w.tunnel(authority)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(nc, config)
	if err := tc.Handshake(); err != nil {
		nc.Close()
		return nil, err
	}
	if p := tc.ConnectionState().NegotiatedProtocol; p != w.Protocol && (p != "" || w.Protocol != "http/1.1") {
		nc.Close()
		return nil, fmt.Errorf("protocol %q in place of %q", p, w.Protocol)
	}
	return tc, nil
}
