package mitm

import (
	"fmt"
	"testing"
)

// Origins without idle connections are forgotten, even if idle ones are kept for ever.
func TestPoolForgetsOrigins(t *testing.T) {
	p := &pool{keep: -1}
	stays := &origin{key: originKey{addr: "stays:80"}}
	p.push(stays)
	for i := range 10 * maxPoolKeys {
		o := &origin{key: originKey{addr: fmt.Sprint("host", i, ":80")}}
		if !p.push(o) || p.get(o.key) != o {
			t.Fatal("not kept")
		}
		if len(p.idle) > maxPoolKeys {
			t.Fatalf("%d origins are remembered, with %d connections", len(p.idle), p.count)
		}
	}
	if p.count != 1 || p.get(stays.key) != stays {
		t.Errorf("the connection that is idle still was lost; %d in all", p.count)
	}
}

// A connection that comes back to an origin whose last one was taken costs no memory.
func TestPoolAllocations(t *testing.T) {
	p := &pool{keep: -1}
	o := &origin{key: originKey{addr: "host:80"}}
	p.push(o)
	if n := testing.AllocsPerRun(100, func() { p.push(p.get(o.key)) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
