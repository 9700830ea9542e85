package main

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"
)

// TestMain makes this binary play the roles, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == roleArgument {
		playRole(os.Args[2])
		return
	}
	os.Exit(m.Run())
}

// few makes a scenario small: it has a handful of operations.
func few(s scenario) scenario {
	s.conns = min(s.conns, 2)
	if s.bulk() {
		s.size = bulkSize
	}
	return s
}

// typical are what other targets than mitm are tried with.
var typical = regexp.MustCompile(`^(http/128B/16|tls/128B/16|http2/128B|tunnel/ping)$`)

// Every scenario works through mitm and without a proxy, the typical ones also through the
// other targets that are there.
func TestCells(t *testing.T) {
	a, err := newAuthority()
	if err != nil {
		t.Fatal(err)
	}
	p := plan{options: options{quick: true, run: pattern(""), targets: pattern("")}, authority: a}
	if p.here, err = newSite(false); err != nil {
		t.Fatal(err)
	}
	defer p.here.close()
	p.isolate()
	if p.isolated != nil {
		defer p.isolated.close()
	}
	for _, s := range scenarios {
		for _, x := range p.targetsOf(s) {
			if x.name == subject || x.name == direct || typical.MatchString(s.name) {
				t.Run(s.name+"/"+x.name, func(t *testing.T) { p.try(t, few(s), x) })
			}
		}
	}
}

func (p *plan) try(t *testing.T, s scenario, x target) {
	c := cell{scenario: s, target: x, authority: &p.authority, site: p.here, window: time.Millisecond}
	if s.transparent {
		skipIf(t, p.why)
		c.site = p.isolated
	}
	o := c.run(context.Background())
	switch {
	case o.Failure != "":
		t.Fatal(o.Failure)
	case o.Operations < int64(s.conns):
		t.Errorf("%d operations of %d clients", o.Operations, s.conns)
	case s.idle && x.name == subject && o.Descriptors == 0:
		t.Error("idle connections have no descriptors")
	case !s.idle && x.name != direct && o.CPU <= 0:
		t.Error("no processor time was used")
	case s.resume && o.Resumed == 0 && x.name == subject:
		t.Error("no session was resumed")
	}
}

// skipIf skips the test if there is a reason. Where everything has to be there (MITM_TEST_STRICT=1)
// it fails instead.
func skipIf(t *testing.T, reason string) {
	t.Helper()
	switch {
	case reason == "":
	case os.Getenv("MITM_TEST_STRICT") == "1":
		t.Fatal("would skip: " + reason)
	default:
		t.Skip(reason)
	}
}

// A proxy that can't be started is a failure, and says why.
func TestFailure(t *testing.T) {
	here, err := newSite(false)
	if err != nil {
		t.Fatal(err)
	}
	defer here.close()
	var a authority // without a certificate
	c := cell{scenario: few(scenarios[0]), target: targets[1], authority: &a, site: here}
	if o := c.run(context.Background()); o.Failure == "" {
		t.Error("the origin runs without a certificate")
	}
}
