package mitm

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// What is remembered is forgotten after its life, and by forget.
func TestMemoryLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory[string, int]
		m.put("a", 1, time.Minute, "client")
		m.put("b", 2, time.Hour, "client")
		time.Sleep(time.Minute - 1)
		if v, ok := m.get("a"); v != 1 || !ok {
			t.Errorf("before its end: %d, %v", v, ok)
		}
		time.Sleep(time.Nanosecond)
		if _, ok := m.get("a"); ok {
			t.Error("it is there after its end")
		}
		m.put("a", 3, time.Minute, "client")
		if v, ok := m.get("a"); v != 3 || !ok {
			t.Errorf("renewed: %d, %v", v, ok)
		}
		m.forget("b")
		if _, ok := m.get("b"); ok {
			t.Error("it is there after forget")
		}
	})
}

// A client that has all kinds of things remembered makes room for them by its own, mostly; the space
// is bounded.
func TestMemoryFlood(t *testing.T) {
	var m memory[string, int]
	for i := range maxRemembered {
		m.put(fmt.Sprint("others", i), i, time.Hour, fmt.Sprint("other", i%100))
	}
	for i := range 20 * maxRemembered {
		m.put(fmt.Sprint("flood", i), i, time.Hour, "flooder")
		if len(m.entries) > maxRemembered {
			t.Fatalf("%d entries", len(m.entries))
		}
	}
	left := 0
	for i := range maxRemembered {
		if _, ok := m.get(fmt.Sprint("others", i)); ok {
			left++
		}
	}
	if left < maxRemembered/2 {
		t.Errorf("%d of %d entries of others are left", left, maxRemembered)
	}
}

// What is used stays, rather than what is not, where all is by one client, as behind an address that
// many share.
func TestMemoryUsedStays(t *testing.T) {
	var m memory[string, int]
	for i := range 10 * maxRemembered {
		m.put("used", 1, time.Hour, "client")
		m.put(fmt.Sprint(i), i, time.Hour, "client")
		if _, ok := m.get("used"); !ok {
			t.Fatalf("it was forgotten after %d others", i)
		}
	}
}

// What is too old goes first, if it is found.
func TestMemoryOldGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m memory[string, int]
		for i := range maxRemembered {
			m.put(fmt.Sprint("old", i), i, time.Minute, "client")
		}
		time.Sleep(time.Minute)
		for i := range maxRemembered {
			m.put(fmt.Sprint("new", i), i, time.Minute, "client")
		}
		left := 0
		for i := range maxRemembered {
			if _, ok := m.get(fmt.Sprint("new", i)); ok {
				left++
			}
		}
		if left < maxRemembered*3/4 {
			t.Errorf("only %d new entries are left", left)
		}
	})
}
