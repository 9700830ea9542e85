// Transparent is a proxy for connections that a firewall rule leads to it. It prints
// the original destination of each connection and a line for each exchange; see the
// README for the rules. With -demo (Linux) it needs none: it builds a client, a router
// and a server out of network namespaces, installs rules, and fetches pages through itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"

	"example.com/mitm"
)

func main() {
	var mode mitm.Transparent
	addr := flag.String("addr", ":8080", "`address` to listen on")
	demo := flag.Bool("demo", false, "show it in network namespaces of its own")
	flag.BoolVar(&mode.TPROXY, "tproxy", false, "for TPROXY rules instead of redirects")
	flag.BoolVar(&mode.SpoofSource, "spoof", false, "connect to origins from the client's address")
	flag.IntVar(&mode.Mark, "mark", 0, "firewall `mark` of the proxy's own connections")
	cadir := flag.String("cadir", "", "`directory` of a CA to intercept TLS with, made if it is not there; empty: TLS is tunnelled")
	flag.Parse()
	run := func() error { return serve(mode, *addr, *cadir) }
	if *demo {
		run = runDemo
	}
	if err := run(); err != nil && !errors.Is(err, mitm.ErrProxyClosed) {
		log.Fatal(err)
	}
}

// serve runs the proxy until it is interrupted.
func serve(mode mitm.Transparent, addr, cadir string) (err error) {
	p := &mitm.Proxy{Mode: mode, Hooks: []mitm.Hook{mitm.OnConn(printConn), mitm.OnDone(printFlow)}}
	if cadir != "" {
		if p.CA, err = mitm.OpenCA(cadir); err != nil {
			return err
		}
	}
	l, err := mode.Listen(addr)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, func() { p.Close() })
	fmt.Printf("proxy   listens on %v\n", l.Addr())
	return p.Serve(l)
}

// printConn is asked twice: when the destination is known, and when the protocol is.
func printConn(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
	switch c.Protocol {
	case mitm.Unknown:
		fmt.Printf("proxy   %v wanted %s\n", c.RemoteAddr(), c.Destination.Addr)
	case mitm.TLS:
		fmt.Printf("proxy   %v asks in TLS for the name %q\n", c.RemoteAddr(), c.ServerName)
	}
	return mitm.Default, nil
}

func printFlow(f *mitm.Flow) {
	switch {
	case f.Tunnel:
		fmt.Printf("proxy   %s: relayed %s %q, %d bytes up, %d down\n",
			f.Conn.Destination.Addr, f.Conn.Protocol, f.Conn.ServerName, f.Sent(), f.Received())
	case f.Status != 0:
		fmt.Printf("proxy   %s: %s %s -> %d\n", f.Conn.Destination.Addr, f.Method, f.URL, f.Status)
	}
	if f.Err != nil {
		fmt.Printf("proxy   %v\n", f.Err)
	}
}
