package mitm

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// What is remembered of clients is bounded, however many names they ask for, and however long those are.
func TestDistrustsBound(t *testing.T) {
	ds := &distrusts{life: time.Hour}
	for i := range 3 * maxRemembered {
		d := distrust{"client", fmt.Sprint("name", i), "addr"}
		ds.put(d)
		ds.suspect(d, ds.now())
		ds.accept(distrust{"other", d.name, d.addr})
	}
	if len(ds.refused.list) != maxRemembered || len(ds.idle.list) != maxRemembered || len(ds.spoke.list) != maxRemembered {
		t.Errorf("%d, %d and %d are remembered", len(ds.refused.list), len(ds.idle.list), len(ds.spoke.list))
	}
	long := distrust{"client", strings.Repeat("n", maxKeyNames), "addr"}
	for range 2 {
		if ds.suspect(long, ds.now()) {
			t.Error("a long name is remembered")
		}
	}
}

// Connections that overlap are one sign, and the next one is another however many there are.
func TestDistrustsOverlap(t *testing.T) {
	ds := &distrusts{}
	d := distrust{"client", "name", "addr"}
	first, second := ds.now(), ds.now()
	if ds.suspect(d, first) {
		t.Error("the first is a refusal")
	}
	third := ds.now()
	if ds.suspect(d, second) {
		t.Error("one that was open with the first is a refusal")
	}
	if !ds.suspect(d, third) {
		t.Error("one that was opened after the first is none")
	}
}

// Other clients that send something don't make anybody forget who is suspected.
func TestDistrustsOfOthers(t *testing.T) {
	ds := &distrusts{}
	d := distrust{"client", "name", "addr"}
	ds.suspect(d, ds.now())
	for i := range 3 * maxRemembered {
		ds.accept(distrust{"client", fmt.Sprint("name", i), "addr"})
	}
	if !ds.suspect(d, ds.now()) {
		t.Error("forgotten")
	}
}
