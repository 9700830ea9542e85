package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// meter reads what a proxy has used before and after the load.
type meter struct {
	*cell
	proxy *proxy // nil if there is none
}

// redirected is the address whose connections are redirected to a proxy.
const redirected = "127.0.7.7"

// redirect leads connections of the load generator to a transparent proxy.
func (m *meter) redirect() error {
	if !m.scenario.transparent || m.proxy == nil {
		return nil
	}
	rules := fmt.Sprintf(`flush ruleset
table ip bench {
	chain out {
		type nat hook output priority -100
		ip saddr %s tcp dport %d redirect to :%d
	}
}
`, redirected, m.originPort(), m.proxy.port)
	out, err := m.site.run(rules, "nft", "-f", "-")
	if err != nil {
		return fmt.Errorf("nft: %w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

func (m *meter) measure(ctx context.Context, o *outcome) error {
	port := 0
	if m.proxy != nil {
		port = m.proxy.port
	}
	before, err := m.held(ctx)
	if err != nil {
		return err
	}
	load, err := startSelf(m.site, m.scenario.pinned, "load", m.load(port))
	if err != nil {
		return err
	}
	defer load.end()
	var r result
	if err := load.ask(ctx, nil, &r); err != nil || r.Error != "" {
		return cmpErr(err, errors.New("before the measurement: "+r.Error))
	}
	if m.scenario.idle {
		return m.idle(ctx, load, before, o)
	}
	if err := m.busy(ctx, load, o); err != nil {
		return err
	}
	return m.left(ctx, load, before, o)
}

// busy measures while the load generator works.
func (m *meter) busy(ctx context.Context, load *process, o *outcome) error {
	objects, err := m.allocated(ctx, inquiry{Profile: m.profile()})
	if err != nil {
		return err
	}
	cpu, err := m.cpu()
	if err != nil {
		return err
	}
	var r result
	if err := load.ask(ctx, whatever, &r); err != nil || r.Error != "" {
		return cmpErr(err, errors.New(r.Error))
	}
	cpuAfter, err := m.cpu()
	if err != nil {
		return err
	}
	objectsAfter, err := m.allocated(ctx, inquiry{})
	if err != nil {
		return err
	}
	m.fill(o, r, cpuAfter-cpu)
	if m.proxy != nil && m.proxy.control != nil {
		o.Objects = float64(objectsAfter.Objects-objects.Objects) / float64(r.Operations)
	}
	return nil
}

func (m *meter) fill(o *outcome, r result, cpu time.Duration) {
	o.Operations, o.P50, o.P99 = r.Operations, r.P50, r.P99
	count := float64(r.Operations)
	o.Resumed = float64(r.Resumed) / count
	if m.scenario.bulk() {
		count = float64(r.Bytes) / 1e9
	}
	o.Rate, o.CPU = count/r.Seconds, cpu.Seconds()/count
}

// idle measures what connections cost that nobody uses.
func (m *meter) idle(ctx context.Context, load *process, before usage, o *outcome) error {
	after, err := m.held(ctx)
	if err != nil {
		return err
	}
	conns := float64(m.scenario.conns)
	o.Operations = int64(m.scenario.conns)
	o.Memory = float64(after.Memory-before.Memory) / conns
	o.Descriptors = float64(after.Descriptors-before.Descriptors) / conns
	return load.ask(ctx, whatever, new(result))
}

// left closes the connections of the load generator and counts descriptors of the proxy that
// stay, but for those of idle connections to the origin.
func (m *meter) left(ctx context.Context, load *process, before usage, o *outcome) error {
	if m.scenario.kind != tunnels || m.proxy == nil {
		return nil
	}
	if err := load.ask(ctx, whatever, new(result)); err != nil {
		return err
	}
	for range 20 {
		after, err := used(m.proxy.cmd.Process.Pid)
		if o.Left = after.Descriptors - before.Descriptors; err != nil || o.Left <= 0 {
			return err
		}
		time.Sleep(25 * time.Millisecond) // let the proxy see the last of them end
	}
	return nil
}

// profile returns the file for the proxy's CPU profile, if there is to be one.
func (m *meter) profile() string {
	if m.profiles == "" {
		return ""
	}
	name := strings.ReplaceAll(m.scenario.name, "/", "-") + "." + m.target.name + ".pprof"
	return filepath.Join(m.profiles, name)
}

func (m *meter) cpu() (time.Duration, error) {
	if m.proxy == nil {
		return 0, nil
	}
	return cpuTime(m.proxy.cmd.Process.Pid)
}

// held returns what the proxy holds when it has put its garbage away.
func (m *meter) held(ctx context.Context) (u usage, err error) {
	if m.proxy == nil {
		return u, nil
	}
	if _, err := m.allocated(ctx, inquiry{Collect: true}); err != nil {
		return u, err
	}
	return used(m.proxy.cmd.Process.Pid)
}

// allocated asks those proxies that can tell.
func (m *meter) allocated(ctx context.Context, q inquiry) (a allocations, err error) {
	if m.proxy != nil && m.proxy.control != nil {
		err = m.proxy.ask(ctx, q, &a)
	}
	return a, err
}
