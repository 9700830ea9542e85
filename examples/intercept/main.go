// Intercept is an HTTP and SOCKS5 proxy that intercepts TLS and prints a line for every exchange
// inside. Clients have to trust its certificate, which is in the directory given by -cadir,
// and at http://mitm.invalid/ through the proxy:
// curl --proxy http://127.0.0.1:8080 --cacert mitm-ca/mitm-ca.pem https://example.com/
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"example.com/mitm"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "`host:port` to listen on")
	cadir := flag.String("cadir", "mitm-ca", "`directory` of the certificate and its key, made if it is not there")
	tunnel := flag.String("tunnel", "", "`host,host` whose TLS is not opened, for programs that accept one certificate only")
	edit := flag.String("edit", "", "`old=new` replaces text in pages")
	flag.Parse()
	if at, err := net.ResolveTCPAddr("tcp", *addr); err != nil || !at.IP.IsLoopback() {
		log.Printf("warning: %s may be reached from elsewhere, and the proxy serves whoever comes", *addr)
	}
	ca, err := mitm.OpenCA(*cadir)
	if err != nil {
		log.Fatal(err)
	}
	p := &mitm.Proxy{CA: ca, Mode: mitm.Explicit{Host: "mitm.invalid"}, Hooks: []mitm.Hook{
		mitm.OnDone(report),
		mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.ServerName != "" && strings.Contains(","+*tunnel+",", ","+c.ServerName+",") {
				return mitm.Tunnel, nil
			}
			return mitm.Default, nil
		}),
	}}
	if before, after, ok := strings.Cut(*edit, "="); ok {
		p.Hooks = append(p.Hooks, mitm.OnResponse(func(res *http.Response) error { return replace(res, before, after) }))
	}
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	l, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(l) }()
	log.Printf("listening on %v, clients have to trust %s", l.Addr(), filepath.Join(*cadir, "mitm-ca.pem"))
	select {
	case err := <-served:
		log.Fatal(err)
	case <-interrupted.Done():
	}
	stop() // the next Ctrl-C ends the process
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	p.Shutdown(ctx)
}

// replace edits text that the origin did not compress.
func replace(res *http.Response, before, after string) error {
	kind, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";")
	if kind != "text/html" && kind != "text/plain" || res.Header.Get("Content-Encoding") != "" {
		return nil
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	res.Body = io.NopCloser(strings.NewReader(strings.ReplaceAll(string(b), before, after)))
	return err
}

// report prints what became of f. A CONNECT that was opened has its exchanges inside.
func report(f *mitm.Flow) {
	if f.Method == http.MethodConnect && !f.Tunnel && f.Err == nil {
		return
	}
	fmt.Printf("%s  %s  %v  %s %s  %d  %d bytes up, %d down", f.Start.Format(time.TimeOnly), f.Conn.RemoteAddr(), f.Conn.Protocol,
		f.Method, f.URL, f.Status, f.Sent(), f.Received())
	if f.Err != nil {
		fmt.Printf("  %v", f.Err)
	}
	fmt.Println()
}
