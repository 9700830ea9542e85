package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

// soak loads one proxy for long, with everything that clients do and undo, and compares what it
// holds before and after.
type soak struct {
	io.Writer
	options
	workers int
	warm    int           // how often each worker does each thing before the first comparison
	idle    time.Duration // how long the proxy keeps idle connections
	rest    time.Duration // how long it may take to come back to what it was

	site     *site
	started  []*process
	proxy    *process // one of them
	load     *soakLoad
	start    sample // before any load
	before   sample // before the load that counts
	moments  []moment
	failures []string
}

const (
	// soakOrigins are as many because a connection is known by both of its ports: the proxy
	// can have as many connections to each as there are ephemeral ports.
	soakOrigins = 4
	soakWorkers = 16
	soakWarm    = 3
	// soakIdle is short, to be waited for, and long for a client that is about to send its
	// next request.
	soakIdle = 3 * time.Second
	// soakRest is enough for idle connections to origins, which are looked at every half of
	// their time.
	soakRest = 2*soakIdle + 5*time.Second
	// tunnelsAtOnce is how many workers open tunnels in the last phase.
	tunnelsAtOnce = 4
)

// runSoak does it as the flags say.
func runSoak(ctx context.Context, o options) error {
	if o.seed == 0 {
		o.seed = rand.Uint64()
	}
	s := &soak{Writer: os.Stdout, options: o, workers: soakWorkers, warm: soakWarm, idle: soakIdle, rest: soakRest}
	return s.run(ctx)
}

var errSoak = errors.New("the soak has failed")

// run starts the processes, loads the proxy, reports and ends the processes. Its error is nil
// if every answer was right and nothing is left.
func (s *soak) run(ctx context.Context) (err error) {
	if s.site, err = newSite(false); err != nil {
		return err
	}
	defer s.site.close()
	defer s.end()
	if err := s.launch(ctx); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, s.proxy.kill) // workers that wait for it need not wait any more
	defer stop()
	s.header()
	if err := s.phases(ctx); err != nil {
		s.fail(err.Error())
	}
	s.report(ctx)
	if len(s.failures) > 0 {
		return errSoak
	}
	return nil
}

// launch starts all processes.
func (s *soak) launch(ctx context.Context) error {
	a, err := newAuthority()
	if err != nil {
		return err
	}
	s.load = newSoakLoad(s.seed, a.Cert)
	for range soakOrigins {
		var ports originPorts
		if _, err := s.role(ctx, "origin", originConfig{a.Origin}, &ports); err != nil {
			return err
		}
		s.load.origins = append(s.load.origins, ports)
	}
	var l listening
	s.proxy, err = s.role(ctx, subject, proxyConfig{
		CA: a.pair, Intercept: true, HTTP2: true, Hooks: true, Soak: true, Idle: s.idle,
	}, &l)
	s.load.proxy = loopback(l.Port)
	return err
}

// role starts a process and waits for its first words.
func (s *soak) role(ctx context.Context, name string, config, words any) (*process, error) {
	p, err := startSelf(s.site, false, name, config)
	s.started = append(s.started, p)
	if err == nil {
		err = p.ask(ctx, nil, words)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return p, err
}

func (s *soak) end() {
	for _, p := range s.started {
		p.end()
	}
}

// phases are the load, with a look at the proxy before and after each part.
func (s *soak) phases(ctx context.Context) (err error) {
	if s.start, err = s.sample(ctx, true); err != nil {
		return err
	}
	s.moment("start", s.start)
	s.load.warm(ctx, s.workers, s.warm)
	if s.before, err = s.settle(ctx, s.start); err != nil {
		return err
	}
	s.moment("before", s.before)
	s.load.tally.reset()
	err = s.phase(ctx, "mixed", func() { s.load.mixed(ctx, s.workers, s.soak) })
	if err != nil || s.tunnels <= 0 {
		return err
	}
	return s.phase(ctx, "tunnels", func() { s.load.tunnels(ctx, tunnelsAtOnce, s.tunnels) })
}

// phase loads the proxy and finds what is left of that.
func (s *soak) phase(ctx context.Context, name string, load func()) error {
	w := s.watch(ctx)
	begin := time.Now()
	load()
	peak, err := w.stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(s, "%s: %.0f s\n", name, time.Since(begin).Seconds())
	after, err := s.settle(ctx, s.before)
	if err != nil {
		return err
	}
	s.moment(name+", peak", peak)
	s.moment(name+", after", after)
	for _, complaint := range after.complaints(s.before) {
		s.fail(fmt.Sprintf("after %s: %s", name, complaint))
	}
	return nil
}

func (s *soak) moment(name string, x sample) { s.moments = append(s.moments, moment{name, x}) }

func (s *soak) fail(why string) { s.failures = append(s.failures, why) }
