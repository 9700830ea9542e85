package main

import (
	"math"
	"testing"
)

func TestMedians(t *testing.T) {
	table := newTable([]outcome{
		{Scenario: "s", Target: subject, CPU: 3, Left: 1}, {Scenario: "s", Target: subject, CPU: 1}, {Scenario: "s", Target: subject, CPU: 2},
		{Scenario: "s", Target: "haproxy", CPU: 1}, {Scenario: "s", Target: "haproxy", CPU: 4},
		{Scenario: "s", Target: "martian", CPU: 1}, {Scenario: "s", Target: "martian", Failure: "wrong answer"},
	})
	for _, test := range []struct {
		what      string
		got, want float64
	}{
		{"odd", table.pick(cpu, "s", subject), 2},
		{"even", table.pick(cpu, "s", "haproxy"), 2.5},
		{"left", table.pick(left, "s", subject), 1},
		{"least", table.least(cpu, "s", []string{"nginx", "haproxy", subject}), 2},
		{"ratio", against(cpu, "s", "haproxy")(table), 0.8},
	} {
		if test.got != test.want {
			t.Errorf("%s: %v, want %v", test.what, test.got, test.want)
		}
	}
	if v := against(cpu, "s", "martian")(table); !math.IsNaN(v) {
		t.Errorf("a target that failed in one round counts: %v", v)
	}
}

func TestReached(t *testing.T) {
	below := goal{must: 2, stretch: 1}
	above := goal{must: 2, stretch: none, atLeast: true}
	wish := goal{must: none, stretch: 1}
	for _, test := range []struct {
		goal  goal
		value float64
		want  string
	}{
		{below, 1, "stretch reached"},
		{below, 2, "reached"},
		{below, 2.1, missed},
		{below, none, "not measured"},
		{above, 2, "reached"},
		{above, 1.9, missed},
		{wish, 2, "stretch not reached"},
	} {
		if got := test.goal.reached(test.value); got != test.want {
			t.Errorf("%v of %+v: %s, want %s", test.value, test.goal, got, test.want)
		}
	}
}

// Every goal is about scenarios that exist, so that a full run measures it.
func TestGoals(t *testing.T) {
	var all []outcome
	for _, s := range scenarios {
		for _, x := range targets {
			if x.can(&s) {
				all = append(all, outcome{Scenario: s.name, Target: x.name, CPU: 2, Rate: 2, P50: 2 + float64(len(x.name)), P99: 2})
			}
		}
	}
	table := newTable(all)
	for _, g := range goals {
		if math.IsNaN(g.measure(table)) {
			t.Errorf("%s: nothing measures it", g.what)
		}
	}
}
