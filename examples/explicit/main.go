// Explicit is an HTTP proxy that prints a line for every exchange and every tunnel. Point
// a client at it: curl --proxy http://127.0.0.1:8080 http://example.com/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"time"

	"example.com/mitm"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`host:port` to listen on")
	flag.Parse()
	if at, err := net.ResolveTCPAddr("tcp", *addr); err != nil || !at.IP.IsLoopback() {
		log.Printf("warning: %s may be reached from elsewhere, and the proxy serves whoever comes", *addr)
	}
	p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnDone(report)}}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stopOnInterrupt(p)
	}()
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %v", l.Addr())
	if err := p.Serve(l); !errors.Is(err, mitm.ErrProxyClosed) {
		log.Fatal(err)
	}
	<-stopped
}

// report prints what became of f.
func report(f *mitm.Flow) {
	failure := ""
	if f.Err != nil {
		failure = "  " + f.Err.Error()
	}
	fmt.Printf("%s  %s  %s %s  %d  %d bytes up, %d down  %v%s\n", f.Start.Format(time.TimeOnly), f.Conn.RemoteAddr(), f.Method, f.URL,
		f.Status, f.Sent(), f.Received(), f.End.Sub(f.Start).Round(time.Millisecond), failure)
}

// stopOnInterrupt waits for Ctrl-C, then for what is under way; a second one cuts it.
func stopOnInterrupt(p *mitm.Proxy) {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	<-interrupted.Done()
	stop() // the next Ctrl-C ends the process
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	log.Print("stopping")
	p.Shutdown(ctx)
}
