package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// cell measures one scenario through one target, once.
type cell struct {
	scenario  scenario
	target    target
	authority *authority
	site      *site
	window    time.Duration
	profiles  string // directory, may be empty
	dir       string // for files of the proxy, removed afterwards
	ports     originPorts
}

// proxy is a started target.
type proxy struct {
	*process
	port int
}

// outcome is what a cell has found.
type outcome struct {
	Scenario, Target string
	Failure          string  `json:",omitempty"`
	Operations       int64   // measured
	Rate             float64 // operations, or GB, per second
	CPU              float64 // seconds of the proxy for an operation, or a GB
	P50, P99         float64 // microseconds
	Objects          float64 // allocated for an operation; -1: not known
	Memory           float64 // bytes for an idle connection
	Descriptors      float64 // for an idle connection
	Left             int     // descriptors, when all connections are closed
	Resumed          float64 // share of operations
}

// cellLimit is for a cell, besides its window.
const cellLimit = 60 * time.Second

// run starts the processes, measures and ends them.
func (c *cell) run(ctx context.Context) (o outcome) {
	ctx, cancel := context.WithTimeout(ctx, c.window+cellLimit)
	defer cancel()
	o = outcome{Scenario: c.scenario.name, Target: c.target.name, Objects: -1}
	if err := c.measure(ctx, &o); err != nil {
		o.Failure = strings.TrimSpace(err.Error())
	}
	return o
}

func (c *cell) measure(ctx context.Context, o *outcome) (err error) {
	if c.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(c.dir)
	os.Chmod(c.dir, 0o755) // some programs give up root
	origin, err := startSelf(c.site, c.scenario.pinned, "origin", originConfig{c.authority.Origin})
	if err != nil {
		return err
	}
	defer origin.end()
	if err := origin.ask(ctx, nil, &c.ports); err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	m := meter{cell: c}
	if c.target.start != nil {
		m.proxy, err = c.target.start(ctx, c)
		if m.proxy != nil {
			defer m.proxy.end()
		}
		if err != nil {
			return err
		}
	}
	if err := m.redirect(); err != nil {
		return err
	}
	return m.measure(ctx, o)
}

// load returns what the load generator has to do.
func (c *cell) load(proxyPort int) job {
	s := &c.scenario
	j := job{Kind: s.kind, Conns: s.conns, Size: s.size, Window: c.window, Way: c.way(proxyPort)}
	if s.idle {
		j.Window = 0
	} else if !s.bulk() {
		j.Warm = c.window / 4
	}
	return j
}

func (c *cell) way(proxyPort int) way {
	s := &c.scenario
	w := way{
		Dial: loopback(c.originPort()), Authority: loopback(c.originPort()),
		TLS: s.tls, Protocol: "http/1.1", Roots: c.authority.Cert, Resume: s.resume,
	}
	if s.tls {
		w.ServerName = c.originName()
	}
	if s.tls && !c.dialsItself() {
		w.Authority = strings.Replace(w.Authority, "127.0.0.1", w.ServerName, 1)
	}
	if s.http2 {
		w.Protocol = "h2"
	}
	switch {
	case proxyPort == 0:
	case s.transparent:
		w.Source = redirected
	default:
		w.Dial, w.Forward = loopback(proxyPort), c.target.forward
	}
	return w
}

// originName is the name of the origin where there is TLS.
func (c *cell) originName() string {
	if c.scenario.fresh {
		return anyName + "." + domain
	}
	return hostName
}

// dialsItself reports whether the proxy has no setting for how it dials, so that it can't be
// given a name of the origin.
func (c *cell) dialsItself() bool {
	return c.target.name == "go-mitmproxy" || c.target.name == "martian" && c.scenario.http2
}

func (c *cell) originPort() int {
	s := &c.scenario
	switch {
	case s.raw():
		return c.ports.Raw
	case s.http2:
		return c.ports.HTTP2
	case s.tls:
		return c.ports.TLS
	}
	return c.ports.HTTP
}

// config returns what proxies among the roles are told.
func (c *cell) config() proxyConfig {
	s := &c.scenario
	return proxyConfig{
		CA: c.authority.pair, Leaf: c.authority.Origin, Intercept: s.tls || s.tunnelHook, HTTP2: s.http2,
		Transparent: s.transparent, Hooks: s.hooks, TunnelHook: s.tunnelHook,
	}
}

// startRole starts a proxy that is one of the roles.
func startRole(ctx context.Context, c *cell) (*proxy, error) {
	p, err := startSelf(c.site, c.scenario.pinned, c.target.name, c.config())
	if err != nil {
		return &proxy{process: p}, err
	}
	var l listening
	err = p.ask(ctx, nil, &l)
	return &proxy{p, l.Port}, err
}

// startProgram looks as often as startPause, and as long as startLimit, whether it listens.
const (
	startLimit = 20 * time.Second
	startPause = 10 * time.Millisecond
)

// startProgram starts a program that listens on port after a while.
func (c *cell) startProgram(ctx context.Context, port int, args ...string) (*proxy, error) {
	p, err := startProgram(c.site, c.scenario.pinned, program(c.target.command), args...)
	if err != nil {
		return nil, err
	}
	x := &proxy{p, port}
	for end := time.Now().Add(startLimit); time.Now().Before(end) && ctx.Err() == nil && !p.ended(); time.Sleep(startPause) {
		if c.site.answers(port) {
			return x, nil
		}
	}
	log, _ := os.ReadFile(c.dir + "/log")
	return x, p.explain(fmt.Errorf("does not listen %s", log[max(0, len(log)-400):]))
}

// write writes a file for the proxy and returns its name.
func (c *cell) write(name, text string) (path string, err error) {
	path = c.dir + "/" + name
	return path, os.WriteFile(path, []byte(text), 0o644)
}
