package mitm

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxRemembered is how many entries a memory has at most.
	maxRemembered = 4096
	// evictionSample is how many entries are looked at to find one that can go. With 16, whoever has a
	// fifth of a memory replaces his own nearly always.
	evictionSample = 16
	// maxKeyNames is how long the names in a key may be. Those of hosts have 253 bytes.
	maxKeyNames = 1024
)

// memory holds what is remembered of servers for all clients, each entry for a while. A new entry
// of a full memory replaces one of a few that are picked at random: one by the same client if there
// is one, else the one that was not used for longest. So no client can have what others use
// forgotten. The zero value is empty. It may be used by several goroutines at once.
type memory[K comparable, V any] struct {
	mu      sync.Mutex
	entries map[K]*remembered[K, V]
	list    []*remembered[K, V] // the same, to pick from
	clock   uint64              // counts uses
}

// remembered is an entry.
type remembered[K comparable, V any] struct {
	key   K
	value V
	until time.Time
	used  uint64
	owner string // by whose doing it is there
	at    int    // in list
}

// get returns the value of key, unless there is none or it is too old.
func (m *memory[K, V]) get(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[key]
	if e == nil || !time.Now().Before(e.until) {
		return value, false
	}
	m.clock++
	e.used = m.clock
	return e.value, true
}

// put remembers value for life, by the doing of owner.
func (m *memory[K, V]) put(key K, value V, life time.Duration, owner string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(m.entries[key])
	if len(m.list) >= maxRemembered {
		m.drop(m.leastNeeded(owner))
	}
	m.clock++
	e := &remembered[K, V]{key, value, time.Now().Add(life), m.clock, owner, len(m.list)}
	if m.entries == nil {
		m.entries = map[K]*remembered[K, V]{}
	}
	m.entries[key], m.list = e, append(m.list, e)
}

// forget drops the value of key.
func (m *memory[K, V]) forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(m.entries[key])
}

// drop removes e if there is one.
func (m *memory[K, V]) drop(e *remembered[K, V]) {
	if e == nil {
		return
	}
	delete(m.entries, e.key)
	last := len(m.list) - 1
	m.list[e.at] = m.list[last]
	m.list[e.at].at = e.at
	m.list[last] = nil
	m.list = m.list[:last]
}

// leastNeeded picks an entry that makes room for one of owner.
func (m *memory[K, V]) leastNeeded(owner string) (out *remembered[K, V]) {
	now := time.Now()
	for range evictionSample {
		e := m.list[rand.IntN(len(m.list))]
		if !now.Before(e.until) {
			return e
		}
		if out == nil || e.goesBefore(out, owner) {
			out = e
		}
	}
	return out
}

// goesBefore reports whether e rather than other makes room for an entry of owner.
func (e *remembered[K, V]) goesBefore(other *remembered[K, V], owner string) bool {
	if own := e.owner == owner; own != (other.owner == owner) {
		return own
	}
	return e.used < other.used
}
