// Command bench measures what a proxy costs: example.com/mitm next to other proxies and to no
// proxy at all, side by side on this machine (Linux).
//
//	go run .                    # everything; takes a quarter of an hour or more
//	go run . -quick             # less of it, in 90 seconds
//	go run . -run http/128B     # some scenarios
//	go run . -list              # what there is
//	go run . -profile DIR       # with a CPU profile of each Go proxy
//	go run . -soak 10m          # what mitm still holds after a long time of everything at once
//
// For every scenario and proxy an origin server, the proxy and a load generator are started
// as processes of their own; rounds of all of them follow one another, and the medians over the
// rounds are printed. Most can be compared by the first column: the processor time of the
// proxy's processes for one operation, which does not depend on what else shares the machine's
// processors. Every answer is checked in full; a proxy that gives a wrong one has failed.
//
// Peers that are programs (haproxy, nginx, squid, mitmdump) are measured where they are
// installed. Everything stays on the loopback interface; the transparent scenarios need root and
// nft, and run in a network namespace of their own.
//
// The map: scenario.go and target.go say what is measured, plan.go and cell.go measure it,
// table.go, goals.go and report.go print it. origin*.go, load*.go and proxy_*.go are the processes
// (role.go, process.go). soak*.go loads one proxy for long, and looks for what is left.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	quick, list, json bool
	profile           string
	run, targets      *regexp.Regexp
	rounds            int
	window            time.Duration
	soak              time.Duration
	tunnels           int
	seed              uint64
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == roleArgument {
		playRole(os.Args[2])
		return
	}
	o := readFlags()
	if o.list {
		list(os.Stdout, o)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	run := measure
	if o.soak > 0 {
		run = runSoak
	}
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func readFlags() (o options) {
	run := flag.String("run", "", "`regexp` of the scenarios to run")
	targets := flag.String("targets", "", "`regexp` of the proxies to measure")
	flag.BoolVar(&o.quick, "quick", false, "short windows, one round, without the slow programs; ends in 90 s")
	flag.BoolVar(&o.list, "list", false, "list scenarios and proxies")
	flag.BoolVar(&o.json, "json", false, "print JSON in place of tables")
	flag.StringVar(&o.profile, "profile", "", "`directory` for a CPU profile of each Go proxy in each scenario")
	flag.IntVar(&o.rounds, "rounds", 0, "number of rounds (default 5, with -quick 1)")
	flag.DurationVar(&o.window, "window", 0, "how long to measure each (default 1s, with -quick 200ms)")
	flag.DurationVar(&o.soak, "soak", 0, "how long to load mitm with everything at once, to see what it still holds afterwards (0: measure)")
	flag.IntVar(&o.tunnels, "tunnels", 100_000, "how many tunnels to open and close with -soak")
	flag.Uint64Var(&o.seed, "seed", 0, "of what happens by chance with -soak (default: another one each time)")
	flag.Parse()
	o.run, o.targets = pattern(*run), pattern(*targets)
	o.setDefaults()
	return o
}

func (o *options) setDefaults() {
	rounds, window := 5, time.Second
	if o.quick {
		rounds, window = 1, 200*time.Millisecond
	}
	if o.rounds <= 0 {
		o.rounds = rounds
	}
	if o.window <= 0 {
		o.window = window
	}
}

// pattern compiles what a flag holds.
func pattern(s string) *regexp.Regexp {
	re, err := regexp.Compile(s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	return re
}

// list prints the scenarios, and which targets are measured in each.
func list(w *os.File, o options) {
	for _, s := range o.scenarios() {
		var names []string
		for _, t := range o.targetsOf(s) {
			names = append(names, t.name)
		}
		fmt.Fprintf(w, "%-24s %s (%s)\n", s.name, s.about, strings.Join(names, ", "))
	}
	for _, t := range targets {
		if reason := t.missing(); reason != "" {
			fmt.Fprintf(w, "%s: %s\n", t.name, reason)
		}
	}
}
