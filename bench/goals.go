package main

import "math"

// figure is one number of an outcome.
type figure func(o *outcome) float64

func cpu(o *outcome) float64         { return o.CPU }
func rate(o *outcome) float64        { return o.Rate }
func p50(o *outcome) float64         { return o.P50 }
func p99(o *outcome) float64         { return o.P99 }
func objects(o *outcome) float64     { return o.Objects }
func memory(o *outcome) float64      { return o.Memory / 1024 }
func descriptors(o *outcome) float64 { return o.Descriptors }
func left(o *outcome) float64        { return float64(o.Left) }

// goal is a bound for something that is measured of mitm, mostly in proportion to others in
// the same run.
type goal struct {
	what, unit string
	measure    func(t *table) float64 // NaN if something was not measured
	must       float64                // NaN: there is none
	stretch    float64                // likewise
	atLeast    bool                   // the bounds are lower ones
}

var none = math.NaN()

const (
	times = "x"
	count = ""
)

// goals are what example.com/mitm is to reach.
var goals = []goal{
	{what: "plain HTTP, 128 B, CPU / martian's", unit: times, measure: against(cpu, "http/128B/16", "martian"), must: 0.40, stretch: 0.30},
	{what: "plain HTTP, 128 B, CPU / haproxy's", unit: times, measure: against(cpu, "http/128B/16", "haproxy"), must: 1.1, stretch: none},
	{what: "plain HTTP, 128 B, CPU / nginx's", unit: times, measure: against(cpu, "http/128B/16", "nginx"), must: none, stretch: 1.0},
	{what: "intercepted TLS, 128 B, CPU / martian's", unit: times, measure: against(cpu, "tls/128B/16", "martian"), must: 0.40, stretch: 0.30},
	{what: "plain HTTP, CPU at 1000 connections / at 16", unit: times, measure: within(cpu, "http/128B/1000", "http/128B/16"), must: 2.2, stretch: 1.9},
	{what: "intercepted TLS, CPU at 1000 connections / at 16", unit: times, measure: within(cpu, "tls/128B/1000", "tls/128B/16"), must: 2.2, stretch: 1.9},
	{what: "plain HTTP, requests/s / martian's", unit: times, measure: against(rate, "http/128B/16", "martian"), must: 2.0, stretch: none, atLeast: true},
	{what: "plain HTTP, requests/s / those without proxy", unit: times, measure: against(rate, "http/128B/16", direct), must: none, stretch: 0.42, atLeast: true},
	{what: "intercepted TLS, requests/s / martian's", unit: times, measure: against(rate, "tls/128B/16", "martian"), must: 2.0, stretch: none, atLeast: true},
	{what: "intercepted TLS, requests/s / those without proxy", unit: times, measure: against(rate, "tls/128B/16", direct), must: none, stretch: 0.38, atLeast: true},
	{what: "plain HTTP, 64 KiB, CPU / martian's", unit: times, measure: against(cpu, "http/64KiB", "martian"), must: 0.40, stretch: 0.30},
	{what: "intercepted TLS, 64 KiB, CPU / goproxy's", unit: times, measure: against(cpu, "tls/64KiB", "goproxy"), must: 0.75, stretch: 0.65},
	{what: "plain HTTP, 100 MiB, CPU per GB / martian's", unit: times, measure: against(cpu, "http/100MiB", "martian"), must: 1.0, stretch: 0.92},
	{what: "intercepted TLS, 100 MiB, CPU per GB / goproxy's", unit: times, measure: against(cpu, "tls/100MiB", "goproxy"), must: 1.05, stretch: 0.95},
	{what: "HTTP/2 both sides, CPU / go-mitmproxy's", unit: times, measure: against(cpu, "http2/128B", "go-mitmproxy"), must: 0.80, stretch: 0.50},
	{what: "new TLS connection, leaf known, CPU / goproxy's", unit: times, measure: against(cpu, "handshake/cached", "goproxy"), must: 0.80, stretch: 0.72},
	{what: "new TLS connection, resumed, CPU / goproxy's", unit: times, measure: against(cpu, "handshake/resumed", "goproxy"), must: 0.70, stretch: 0.65},
	{what: "new TLS connection, fresh leaf, CPU / goproxy's", unit: times, measure: against(cpu, "handshake/fresh", "goproxy"), must: 0.80, stretch: 0.70},
	{what: "tunnel down, CPU per GB / best peer's", unit: times, measure: against(cpu, "tunnel/down", relays...), must: 1.0, stretch: 1.0},
	{what: "tunnel up, CPU per GB / best peer's", unit: times, measure: against(cpu, "tunnel/up", relays...), must: 1.0, stretch: 1.0},
	{what: "tunnel both ways, CPU per GB / best peer's", unit: times, measure: against(cpu, "tunnel/both", relays...), must: 1.0, stretch: 1.0},
	{what: "transparent raw, CPU per GB / haproxy's", unit: times, measure: against(cpu, "transparent/raw", "haproxy"), must: 1.0, stretch: 0.9},
	{what: "transparent HTTP, CPU / haproxy's", unit: times, measure: against(cpu, "transparent/http", "haproxy"), must: 1.0, stretch: 0.9},
	{what: "transparent TLS, CPU / haproxy's", unit: times, measure: against(cpu, "transparent/tls", "haproxy"), must: 1.0, stretch: 0.9},
	{what: "plain HTTP, pinned, p50 added / martian's", unit: times, measure: added(p50, "http/128B/1", "martian"), must: 0.38, stretch: 0.30},
	{what: "intercepted TLS, pinned, p50 added / martian's", unit: times, measure: added(p50, "tls/128B/1", "martian"), must: 0.56, stretch: 0.47},
	{what: "plain HTTP, 16 connections, p99 / best Go peer's", unit: times, measure: against(p99, "http/128B/16", goPeers...), must: 0.30, stretch: 0.22},
	{what: "intercepted TLS, 16 connections, p99 / best Go peer's", unit: times, measure: against(p99, "tls/128B/16", goPeers...), must: 0.30, stretch: 0.22},
	{what: "SSE, plain, delay p50 / goproxy's", unit: times, measure: against(p50, "http/sse", "goproxy"), must: 1.0, stretch: none},
	{what: "SSE, intercepted, delay p50 / goproxy's", unit: times, measure: against(p50, "tls/sse", "goproxy"), must: 1.0, stretch: none},
	{what: "SSE, plain, delay p50 added", unit: "us", measure: over(p50, "http/sse", direct), must: none, stretch: 50},
	{what: "SSE, intercepted, delay p50 added", unit: "us", measure: over(p50, "tls/sse", direct), must: none, stretch: 50},
	{what: "idle tunnel, memory", unit: "KiB", measure: own(memory, "tunnel/idle"), must: 14, stretch: 6},
	{what: "idle tunnel, descriptors", unit: count, measure: own(descriptors, "tunnel/idle"), must: 2.01, stretch: 2.01},
	{what: "idle intercepted connection, memory", unit: "KiB", measure: own(memory, "tls/idle"), must: 33, stretch: 25},
	{what: "plain HTTP, allocations for a request", unit: count, measure: own(objects, "http/128B/16"), must: 0.5, stretch: none},
	{what: "intercepted TLS, allocations for a request", unit: count, measure: own(objects, "tls/128B/16"), must: 2.5, stretch: none},
	{what: "two hooks, CPU added", unit: "us", measure: hookCost(cpu, 1e6), must: 3, stretch: 1.5},
	{what: "two hooks, allocations added", unit: count, measure: hookCost(objects, 1), must: 12.5, stretch: 4.5},
	{what: "tunnelled host with hooks, ping, CPU / without", unit: times, measure: within(cpu, "hooks/tunnel/ping", "tunnel/ping"), must: 1.1, stretch: none},
	{what: "tunnelled host with hooks, new tunnel, CPU / without", unit: times, measure: within(cpu, "hooks/tunnel/open", "tunnel/open"), must: 1.1, stretch: none},
	{what: "tunnels opened and closed, descriptors left", unit: count, measure: own(left, "tunnel/open"), must: 0, stretch: none},
}

var (
	goPeers = []string{"goproxy", "martian", "go-mitmproxy"}
	relays  = []string{"goproxy", "martian", "haproxy", "squid"}
)

// pick returns a figure, or NaN.
func (t *table) pick(f figure, scenario, target string) float64 {
	o := t.get(scenario, target)
	if o == nil {
		return none
	}
	return f(o)
}

// least returns the smallest figure of several targets.
func (t *table) least(f figure, scenario string, names []string) float64 {
	least := none
	for _, name := range names {
		if v := t.pick(f, scenario, name); !(v >= least) && !math.IsNaN(v) {
			least = v
		}
	}
	return least
}

func own(f figure, scenario string) func(*table) float64 {
	return func(t *table) float64 { return t.pick(f, scenario, subject) }
}

// against is mitm's figure in proportion to the smallest of others.
func against(f figure, scenario string, others ...string) func(*table) float64 {
	return func(t *table) float64 {
		return t.pick(f, scenario, subject) / t.least(f, scenario, others)
	}
}

// within is mitm's figure in proportion to its own in another scenario.
func within(f figure, scenario, other string) func(*table) float64 {
	return func(t *table) float64 {
		return t.pick(f, scenario, subject) / t.pick(f, other, subject)
	}
}

// over is by how much mitm's figure is larger than another's.
func over(f figure, scenario, other string) func(*table) float64 {
	return func(t *table) float64 {
		return t.pick(f, scenario, subject) - t.pick(f, scenario, other)
	}
}

// added is what mitm adds to no proxy, in proportion to what another adds.
func added(f figure, scenario, other string) func(*table) float64 {
	return func(t *table) float64 {
		base := t.pick(f, scenario, direct)
		return (t.pick(f, scenario, subject) - base) / (t.pick(f, scenario, other) - base)
	}
}

func hookCost(f figure, scale float64) func(*table) float64 {
	return func(t *table) float64 {
		return scale * (t.pick(f, "hooks/http", subject) - t.pick(f, "http/128B/16", subject))
	}
}

const missed = "**NOT REACHED**"

// reached says which of the bounds hold, in words.
func (g *goal) reached(v float64) string {
	holds := func(bound float64) bool {
		if g.atLeast {
			return v >= bound
		}
		return v <= bound
	}
	switch {
	case math.IsNaN(v):
		return "not measured"
	case holds(g.stretch):
		return "stretch reached"
	case holds(g.must):
		return "reached"
	case math.IsNaN(g.must):
		return "stretch not reached"
	}
	return missed
}
