package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// report prints tables in Markdown.
type report struct {
	io.Writer
	*table
	plan *plan
}

func (r *report) print() {
	r.header()
	for _, s := range r.plan.scenarios() {
		r.scenario(s)
	}
	r.goals()
}

func (r *report) header() {
	o := r.plan.options
	fmt.Fprintf(r, "# bench, %s\n\n", time.Now().Format(time.DateOnly))
	atMost := ""
	if o.quick {
		atMost = "at most "
	}
	fmt.Fprintf(r, "%d rounds of %s%v, medians; %d CPUs, load of the machine %s at the end, %s %s/%s, took %.0f s.\n", o.rounds, atMost, o.window,
		runtime.NumCPU(), loadAverage(), runtime.Version(), runtime.GOOS, runtime.GOARCH, time.Since(r.plan.begin).Seconds())
	fmt.Fprint(r, "CPU is that of the proxy's processes, user and system. The last two columns are mitm's figure divided by that of the line.\n\n")
	for _, t := range targets {
		fmt.Fprintf(r, "- %s: %s\n", t.name, r.about(t))
	}
	if r.plan.why != "" {
		fmt.Fprintf(r, "- transparent scenarios were skipped: %s\n", r.plan.why)
	}
	if r.plan.cut {
		fmt.Fprintln(r, "- the run was cut short before everything was measured")
	}
}

// about says what a target is, and why it is missing if it is.
func (r *report) about(t target) string {
	switch {
	case t.missing() != "":
		return "skipped, " + t.missing()
	case t.name == direct:
		return "no proxy"
	case !slices.ContainsFunc(r.medians, func(o outcome) bool { return o.Target == t.name }):
		return "left out by the flags"
	case t.command != "":
		return t.describe()
	}
	return moduleVersion(t.module)
}

// moduleVersion returns what this program was built with.
func moduleVersion(path string) string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == path && m.Replace == nil {
			return m.Path + " " + m.Version
		}
	}
	return path
}

func loadAverage() string {
	b, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(b), " ")
	return first
}

func (r *report) scenario(s scenario) {
	list := r.of(s.name)
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(r, "\n## %s\n\n%s\n\n", s.name, s.about)
	columns := columnsOf(&s)
	fmt.Fprint(r, "| |")
	for _, c := range columns {
		fmt.Fprintf(r, " %s |", c.name)
	}
	fmt.Fprintln(r, "\n|---|"+strings.Repeat("---:|", len(columns)))
	for _, o := range list {
		r.line(o, columns)
	}
}

func (r *report) line(o *outcome, columns []column) {
	fmt.Fprintf(r, "| %s |", o.Target)
	if o.Failure != "" {
		fmt.Fprintf(r, " FAILED: %s |\n", strings.ReplaceAll(o.Failure, "|", "/"))
		return
	}
	for _, c := range columns {
		fmt.Fprintf(r, " %s |", number(c.value(r.table, o)))
	}
	fmt.Fprintln(r)
}

// column is one of a scenario's table.
type column struct {
	name  string
	value func(t *table, o *outcome) float64
}

func columnsOf(s *scenario) []column {
	plain := func(name string, f figure) column {
		return column{name, func(_ *table, o *outcome) float64 { return f(o) }}
	}
	if s.idle {
		return []column{plain("KiB each", memory), plain("descriptors each", descriptors), versus("KiB", memory)}
	}
	list := []column{plain("CPU us", func(o *outcome) float64 { return known(o.CPU * 1e6) }), plain("1/s", rate)}
	if s.bulk() {
		list = []column{plain("CPU s/GB", func(o *outcome) float64 { return known(o.CPU) }), plain("GB/s", rate)}
	}
	list = append(list, plain("p50 us", p50), plain("p99 us", p99), plain("allocations", func(o *outcome) float64 {
		if o.Objects < 0 {
			return none
		}
		return o.Objects
	}))
	switch {
	case s.resume:
		list = append(list, plain("resumed", func(o *outcome) float64 { return o.Resumed }))
	case s.kind == tunnels:
		list = append(list, plain("descriptors left", left))
	}
	list = append(list, column{"rate / direct", func(t *table, o *outcome) float64 {
		return o.Rate / t.pick(rate, o.Scenario, direct)
	}})
	return append(list, versus("CPU", cpu), versus("rate", rate))
}

// known returns NaN for 0, which is what no proxy at all has.
func known(v float64) float64 {
	if v == 0 {
		return none
	}
	return v
}

// versus is mitm's figure in proportion to that of the line.
func versus(name string, f figure) column {
	return column{"mitm's " + name, func(t *table, o *outcome) float64 {
		if f(o) <= 0 {
			return none
		}
		return t.pick(f, o.Scenario, subject) / f(o)
	}}
}

// number has three digits or more; nothing stands for what is not known.
func number(v float64) string {
	switch size := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return ""
	case size >= 100:
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *report) goals() {
	fmt.Fprint(r, "\n## Goals\n\n| | measured | must | stretch | |\n|---|---:|---:|---:|---|\n")
	bounds, reached := 0, 0
	for _, g := range goals {
		v := g.measure(r.table)
		if math.IsNaN(v) && r.plan.run.String() != "" {
			continue
		}
		fmt.Fprintf(r, "| %s | %s %s | %s | %s | %s |\n", g.what, number(v), g.unit, g.bound(g.must), g.bound(g.stretch), g.reached(v))
		if !math.IsNaN(v) && !math.IsNaN(g.must) {
			bounds++
			if g.reached(v) != missed {
				reached++
			}
		}
	}
	fmt.Fprintf(r, "\nOf %d bounds that must be reached and were measured, %d are.\n", bounds, reached)
}

func (g *goal) bound(v float64) string {
	switch {
	case math.IsNaN(v):
		return ""
	case g.atLeast:
		return "≥ " + number(v)
	}
	return "≤ " + number(v)
}
