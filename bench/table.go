package main

import (
	"cmp"
	"encoding/json"
	"io"
	"math"
	"slices"
)

// key is a scenario and a target.
type key struct{ scenario, target string }

// table has the median outcome of each cell.
type table struct {
	medians []outcome
	byKey   map[key]*outcome
}

// newTable takes medians of each figure. A cell that failed in one round has failed.
func newTable(all []outcome) *table {
	t := &table{byKey: map[key]*outcome{}}
	groups := map[key][]outcome{}
	var order []key
	for _, o := range all {
		k := key{o.Scenario, o.Target}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], o)
	}
	for _, k := range order {
		t.medians = append(t.medians, median(groups[k]))
	}
	for i := range t.medians {
		t.byKey[key{t.medians[i].Scenario, t.medians[i].Target}] = &t.medians[i]
	}
	return t
}

func median(all []outcome) outcome {
	m := all[0]
	for _, o := range all {
		m.Failure = cmp.Or(m.Failure, o.Failure)
		m.Left = max(m.Left, o.Left)
	}
	for _, figure := range []func(*outcome) *float64{
		func(o *outcome) *float64 { return &o.Rate },
		func(o *outcome) *float64 { return &o.CPU },
		func(o *outcome) *float64 { return &o.P50 },
		func(o *outcome) *float64 { return &o.P99 },
		func(o *outcome) *float64 { return &o.Objects },
		func(o *outcome) *float64 { return &o.Memory },
		func(o *outcome) *float64 { return &o.Descriptors },
		func(o *outcome) *float64 { return &o.Resumed },
	} {
		var values []float64
		for _, o := range all {
			values = append(values, *figure(&o))
		}
		*figure(&m) = middle(values)
	}
	return m
}

func middle(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// get returns an outcome, or nil if it was not measured or failed.
func (t *table) get(scenario, target string) *outcome {
	o := t.byKey[key{scenario, target}]
	if o == nil || o.Failure != "" {
		return nil
	}
	return o
}

// of returns the outcomes of a scenario in the order of the targets.
func (t *table) of(scenario string) (list []*outcome) {
	for _, x := range targets {
		if o := t.byKey[key{scenario, x.name}]; o != nil {
			list = append(list, o)
		}
	}
	return list
}

// verdict is how a goal stands.
type verdict struct {
	Goal     string
	Measured float64
	Verdict  string
}

// encode writes medians, and the goals that were measured, as JSON.
func (t *table) encode(w io.Writer) error {
	var verdicts []verdict
	for _, g := range goals {
		if v := g.measure(t); !math.IsNaN(v) {
			verdicts = append(verdicts, verdict{g.what, v, g.reached(v)})
		}
	}
	return json.NewEncoder(w).Encode(map[string]any{"Medians": t.medians, "Goals": verdicts})
}
