package main

import "fmt"

// kind is what the clients of a scenario do.
type kind string

const (
	exchanges  kind = "exchanges"
	posts      kind = "posts"
	events     kind = "events"
	streams    kind = "streams"
	handshakes kind = "handshakes"
	tunnels    kind = "tunnels"
	down       kind = "down"
	up         kind = "up"
	both       kind = "both"
	ping       kind = "ping"
)

// scenario is one thing that is measured, through every target that can do it.
type scenario struct {
	name, about string
	kind        kind
	conns       int
	size        int64 // of content
	tls         bool  // opened by the proxy
	http2       bool
	resume      bool // TLS sessions of clients
	fresh       bool // every connection has a name of its own
	idle        bool // connections are counted, not used
	pinned      bool // proxy, load and origin share one CPU
	transparent bool
	hooks       bool // that set a field
	tunnelHook  bool // that tunnels what could be opened
}

// From bulkSize on an operation is measured by the GB.
const bulkSize = 1 << 20

const (
	small  = 128
	medium = 64 << 10
	large  = 100 << 20
	flow   = 64 << 20 // of a tunnel
)

// bulk reports whether bytes count, not operations.
func (s *scenario) bulk() bool { return s.size >= bulkSize }

// raw reports whether there is no HTTP but CONNECT.
func (s *scenario) raw() bool {
	switch s.kind {
	case tunnels, down, up, both, ping:
		return true
	}
	return false
}

// scenarios are in the order in which they are run and printed.
var scenarios = append(append(append(web("http", "plain HTTP", false), web("tls", "intercepted TLS", true)...),
	scenario{name: "tls/idle", about: "idle intercepted connections", kind: exchanges, conns: 500, size: small, tls: true, idle: true},
	scenario{name: "http2/128B", about: "HTTP/2 both sides, 4 connections of 4 streams", kind: streams, conns: 4, size: small, tls: true, http2: true},
	scenario{name: "http2/64KiB", about: "HTTP/2 both sides, 4 connections of 4 streams", kind: streams, conns: 4, size: medium, tls: true, http2: true},
	scenario{name: "handshake/cached", about: "new TLS connection, leaf known, one exchange", kind: handshakes, conns: 4, size: small, tls: true},
	scenario{name: "handshake/resumed", about: "the same by a client that resumes sessions", kind: handshakes, conns: 4, size: small, tls: true, resume: true},
	scenario{name: "handshake/fresh", about: "the same with a new name each time, origin connection included", kind: handshakes, conns: 4, size: small, tls: true, fresh: true},
	scenario{name: "tunnel/down", about: "64 MiB from the origin, 4 tunnels", kind: down, conns: 4, size: flow},
	scenario{name: "tunnel/up", about: "64 MiB to the origin, 4 tunnels", kind: up, conns: 4, size: flow},
	scenario{name: "tunnel/both", about: "64 MiB each way at once, 2 tunnels", kind: both, conns: 2, size: flow},
	scenario{name: "tunnel/ping", about: "64 bytes there and back, 16 tunnels", kind: ping, conns: 16},
	scenario{name: "tunnel/open", about: "tunnels opened and closed, 64 bytes each way, 4 at once", kind: tunnels, conns: 4},
	scenario{name: "tunnel/idle", about: "2,500 idle tunnels", kind: ping, conns: 2500, idle: true},
	scenario{name: "transparent/http", about: "redirected, 128 B, 16 connections", kind: exchanges, conns: 16, size: small, transparent: true},
	scenario{name: "transparent/tls", about: "redirected, 128 B, 16 connections", kind: exchanges, conns: 16, size: small, tls: true, transparent: true},
	scenario{name: "transparent/raw", about: "redirected, 64 MiB from the origin, 4 connections", kind: down, conns: 4, size: flow, transparent: true},
), hooked()...)

// web are the scenarios that exist with and without TLS.
func web(prefix, about string, tls bool) (list []scenario) {
	for _, conns := range []int{1, 16, 128, 1000} {
		s := scenario{name: fmt.Sprintf("%s/128B/%d", prefix, conns), about: fmt.Sprintf("%s, 128 B, %d connections", about, conns), conns: conns, size: small}
		if conns == 1 {
			s.pinned, s.about = true, about+", 128 B, 1 connection, all pinned to one CPU"
		}
		list = append(list, s)
	}
	list = append(list,
		scenario{name: prefix + "/64KiB", about: about + ", 64 KiB, 16 connections", conns: 16, size: medium},
		scenario{name: prefix + "/100MiB", about: about + ", 100 MiB, 2 connections", conns: 2, size: large},
		scenario{name: prefix + "/post", about: about + ", POST of 4 KiB, 16 connections", kind: posts, conns: 16, size: small},
		scenario{name: prefix + "/sse", about: about + ", age of server-sent events every 5 ms, 4 connections", kind: events, conns: 4})
	for i := range list {
		if list[i].tls = tls; list[i].kind == "" {
			list[i].kind = exchanges
		}
	}
	return list
}

// hooked are the scenarios whose counterparts without hooks are among the others.
func hooked() []scenario {
	return []scenario{
		{name: "hooks/http", about: "as http/128B/16, a field set in each request and response", kind: exchanges, conns: 16, size: small, hooks: true},
		{name: "hooks/tls", about: "as tls/128B/16, a field set in each request and response", kind: exchanges, conns: 16, size: small, tls: true, hooks: true},
		{name: "hooks/tunnel/ping", about: "as tunnel/ping, hooks that see HTTP and one that says tunnel", kind: ping, conns: 16, hooks: true, tunnelHook: true},
		{name: "hooks/tunnel/open", about: "as tunnel/open, hooks that see HTTP and one that says tunnel", kind: tunnels, conns: 4, hooks: true, tunnelHook: true},
	}
}

// scenarios returns those that the flags ask for.
func (o options) scenarios() (list []scenario) {
	for _, s := range scenarios {
		if o.run.MatchString(s.name) {
			list = append(list, s)
		}
	}
	return list
}
