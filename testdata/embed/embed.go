// Package embed is what a program of somebody else's looks like that embeds a proxy.
package embed

import (
	"net"

	"example.com/mitm"
)

// Record serves a proxy on l that tells seen about every URL. Close the proxy to end it.
func Record(l net.Listener, seen func(url string)) *mitm.Proxy {
	p := &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnDone(func(f *mitm.Flow) { seen(f.URL) })}}
	go p.Serve(l)
	return p
}
