package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

// plan is a run of this program.
type plan struct {
	options
	authority authority
	here      *site
	isolated  *site // for transparent scenarios; nil if there is none
	why       string
	outcomes  []outcome
	begin     time.Time
	cut       bool // before everything was measured
	// done is how many cells were measured, overhead what that took besides their windows.
	done     int
	overhead time.Duration
}

// quickLimit is when a quick run stops measuring.
const quickLimit = 86 * time.Second

// measure runs everything that the flags ask for and prints it. An interrupted run prints
// what there is.
func measure(ctx context.Context, o options) (err error) {
	p := plan{options: o, begin: time.Now()}
	if p.authority, err = newAuthority(); err != nil {
		return err
	}
	if p.here, err = newSite(false); err != nil {
		return err
	}
	defer p.here.close()
	p.isolate()
	if p.isolated != nil {
		defer p.isolated.close()
	}
	p.all(ctx)
	fmt.Fprint(os.Stderr, "\r\033[K")
	t := newTable(p.outcomes)
	if o.json {
		return t.encode(os.Stdout)
	}
	r := report{os.Stdout, t, &p}
	r.print()
	return nil
}

// all measures round after round.
func (p *plan) all(ctx context.Context) {
	if p.quick {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, quickLimit)
		defer cancel()
	}
	for round := range p.rounds {
		p.round(ctx, round)
	}
	p.cut = ctx.Err() != nil
}

// isolate makes the namespace of the transparent scenarios, where that is possible.
func (p *plan) isolate() {
	if program("nft") == "" || program("ip") == "" {
		p.why = "nft and ip are not installed"
		return
	}
	var err error
	if p.isolated, err = newSite(true); err != nil {
		p.why = "no network namespace: " + err.Error()
		return
	}
	if out, err := p.isolated.run(emptyRules, "nft", "-f", "-"); err != nil {
		p.why = fmt.Sprintf("nft: %v: %s", err, out)
	}
}

// emptyRules show whether redirection can work.
const emptyRules = `table ip bench {
	chain out {
		type nat hook output priority -100
	}
}
`

// round measures every scenario through every target once. Targets take turns in being
// first.
func (p *plan) round(ctx context.Context, round int) {
	for _, s := range p.scenarios() {
		list := p.targetsOf(s)
		for i := range list {
			if ctx.Err() != nil {
				return
			}
			t := list[(i+round)%len(list)]
			fmt.Fprintf(os.Stderr, "\r\033[Kround %d of %d, %.0f s: %s %s", round+1, p.rounds, time.Since(p.begin).Seconds(), s.name, t.name)
			p.cell(ctx, s, t)
		}
	}
}

func (p *plan) cell(ctx context.Context, s scenario, t target) {
	c := cell{scenario: s, target: t, authority: &p.authority, site: p.here, window: p.pace(), profiles: p.profile}
	if s.transparent {
		if p.why != "" {
			return
		}
		c.site = p.isolated
	}
	begin := time.Now()
	o := c.run(ctx)
	p.done++
	p.overhead += time.Since(begin) - c.window
	if ctx.Err() == nil {
		p.outcomes = append(p.outcomes, o)
	}
}

// pace returns how long to measure the next cell: less than the flags say where a quick run
// would not end in time.
func (p *plan) pace() time.Duration {
	if !p.quick || p.done == 0 {
		return p.window
	}
	left := time.Duration(max(p.cells()-p.done, 1))
	share := (quickLimit-time.Since(p.begin))/left - p.overhead/time.Duration(p.done)
	return min(p.window, max(share, p.window/4))
}

// cells is how many there are in all rounds.
func (p *plan) cells() (n int) {
	for _, s := range p.scenarios() {
		n += len(p.targetsOf(s))
	}
	return n * p.rounds
}
