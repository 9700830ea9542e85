package mitm

import (
	"container/list"
	"crypto/tls"
	"sync"
	"time"
)

const (
	// maxLeaves is how many leaves are kept.
	maxLeaves = 4096
	// maxLeafBytes is how many bytes their DER and keys take together. Leaves of one name
	// take about 2 MiB, so this is for origins that have hundreds of names.
	maxLeafBytes = 8 << 20
	// leafRest is how long a leaf has to be valid to be used again.
	leafRest = 24 * time.Hour
)

// signedLeaf is a leaf and the time in which it is used.
type signedLeaf struct {
	cert        *tls.Certificate
	from, until time.Time
}

// newSignedLeaf returns a leaf that is used until a day before it ends, or for half of its
// life if that is longer.
func newSignedLeaf(cert *tls.Certificate, now time.Time) *signedLeaf {
	end := cert.Leaf.NotAfter
	return &signedLeaf{
		cert:  cert,
		from:  now.Add(-backdate), // before that only if the clock was put back
		until: end.Add(-min(leafRest, end.Sub(now)/2)),
	}
}

func (l *signedLeaf) usable(now time.Time) bool {
	return !now.Before(l.from) && now.Before(l.until)
}

// size is what the leaf counts in the cache, without its key.
func (l *signedLeaf) size() int { return len(l.cert.Certificate[0]) }

// leafCache keeps the leaves that were used last, and has a leaf signed once, however many
// ask for it at the same time. The zero value is empty.
type leafCache struct {
	mu    sync.Mutex
	byKey map[string]*list.Element // of *leafEntry
	order list.List                // the one that was used last in front
	size  int                      // of all entries
}

// leafEntry is a leaf that is signed or about to be.
type leafEntry struct {
	key  string
	leaf func() (*signedLeaf, error) // signs when it is first called; others wait for that
	size int                         // 0 until it is signed
}

// get returns the leaf of key, which sign makes if it is not there or too old.
func (c *leafCache) get(key string, sign func() (*signedLeaf, error)) (*tls.Certificate, error) {
	for {
		e := c.entry(key, sign)
		leaf, err := e.leaf()
		if err != nil {
			return nil, err
		}
		if leaf.usable(time.Now()) {
			return leaf.cert, nil
		}
		c.remove(e)
	}
}

// entry returns the entry of key, a new one if there is none.
func (c *leafCache) entry(key string, sign func() (*signedLeaf, error)) *leafEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.byKey[key]; ok {
		c.order.MoveToFront(at)
		return at.Value.(*leafEntry)
	}
	e := &leafEntry{key: key}
	e.leaf = sync.OnceValues(func() (leaf *signedLeaf, err error) {
		defer func() { c.signed(e, leaf) }()
		return sign()
	})
	if c.byKey == nil {
		c.byKey = map[string]*list.Element{}
	}
	c.byKey[key] = c.order.PushFront(e)
	c.evict()
	return e
}

// signed counts an entry that is signed, unless it was evicted meanwhile. Without a leaf
// the entry goes: the next one who asks tries again.
func (c *leafCache) signed(e *leafEntry, leaf *signedLeaf) {
	if leaf == nil {
		c.remove(e)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.byKey[e.key]; ok && at.Value == e {
		e.size = len(e.key) + leaf.size()
		c.size += e.size
		c.evict()
	}
}

// evict removes what was not used for longest until the rest is within the bounds. Who
// waits for an entry that is removed still gets its leaf. mu is held.
func (c *leafCache) evict() {
	for c.order.Len() > maxLeaves || c.size > maxLeafBytes {
		c.drop(c.order.Back())
	}
}

// remove removes e if it is there.
func (c *leafCache) remove(e *leafEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.byKey[e.key]; ok && at.Value == e {
		c.drop(at)
	}
}

// drop removes an entry. mu is held.
func (c *leafCache) drop(at *list.Element) {
	e := c.order.Remove(at).(*leafEntry)
	delete(c.byKey, e.key)
	c.size -= e.size
}
