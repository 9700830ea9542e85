package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
)

// direct is the target that is no proxy; subject is the one that the others are compared to.
const (
	direct  = "direct"
	subject = "mitm"
)

// target is what scenarios are measured through.
type target struct {
	name string
	// module is where a role comes from; command is the program of a peer that is none of the
	// roles, version what it wants to be asked for its version with.
	module, command, version string
	// forward says that it is told where to go. Other proxies know only one origin, or
	// find out the destination by redirection.
	forward bool
	// slow reports whether a quick run leaves s out. Nil: none.
	slow func(s *scenario) bool
	// can reports whether the target can do s, and does it in a way that can be compared.
	can func(s *scenario) bool
	// start gets a proxy going. It is nil for direct.
	start func(ctx context.Context, c *cell) (*proxy, error)
}

var targets = []target{
	{name: direct, can: func(s *scenario) bool { return !s.hooks && !s.idle }},
	{name: subject, module: "example.com/mitm", forward: true, can: func(*scenario) bool { return true }, start: startRole},
	{name: "goproxy", module: "github.com/elazarl/goproxy", forward: true, can: explicit, start: startRole},
	{name: "martian", module: "github.com/google/martian/v3", forward: true, can: explicit, start: startRole},
	{name: "go-mitmproxy", module: "github.com/lqqyt2423/go-mitmproxy", forward: true, slow: unlessHTTP2, can: canGoMitmproxy, start: startRole},
	{name: "haproxy", command: "haproxy", version: "-v", can: canHAProxy, start: startHAProxy},
	{name: "nginx", command: "nginx", version: "-v", slow: unlessSmall, can: canNginx, start: startNginx},
	{name: "squid", command: "squid", version: "-v", forward: true, slow: always, can: canSquid, start: startSquid},
	{name: "mitmproxy", command: "mitmdump", version: "--version", forward: true, slow: always, can: canMitmproxy, start: startMitmproxy},
}

func explicit(s *scenario) bool    { return !s.transparent }
func always(*scenario) bool        { return true }
func unlessHTTP2(s *scenario) bool { return !s.http2 }
func unlessSmall(s *scenario) bool { return s.size != small || s.kind != exchanges }

// targetsOf returns the targets that the flags ask for and that can do s.
func (o options) targetsOf(s scenario) (list []target) {
	for _, t := range targets {
		if !o.leavesOut(t, &s) && t.missing() == "" && t.can(&s) {
			list = append(list, t)
		}
	}
	return list
}

// leavesOut reports whether the flags leave out a target.
func (o options) leavesOut(t target, s *scenario) bool {
	quick := o.quick && o.targets.String() == ""
	return !o.targets.MatchString(t.name) || quick && t.slow != nil && t.slow(s)
}

// missing says why a target can't be measured at all, or is empty.
func (t *target) missing() string {
	if t.command != "" && program(t.command) == "" {
		return t.command + " is not installed"
	}
	return ""
}

// program finds a program, also where only root looks.
func program(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/local/sbin/"} {
		if info, err := os.Stat(dir + name); err == nil && info.Mode()&0o111 != 0 {
			return dir + name
		}
	}
	return ""
}

// describe returns the line of a program's own words that has its version.
func (t *target) describe() string {
	out, _ := exec.Command(program(t.command), t.version).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
