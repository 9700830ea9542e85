package mitm

import (
	"crypto/tls"
	"errors"
	"strconv"
	"testing"
	"time"
)

// fakeLeaf returns a leaf of so many bytes that is usable for a day.
func fakeLeaf(size int) *signedLeaf {
	now := time.Now()
	cert := &tls.Certificate{Certificate: [][]byte{make([]byte, size)}}
	return &signedLeaf{cert: cert, from: now.Add(-time.Hour), until: now.Add(24 * time.Hour)}
}

// fill asks for n leaves and fails the test if one is not signed newly.
func fill(t *testing.T, c *leafCache, n, size int) {
	t.Helper()
	for i := range n {
		if !signs(t, c, strconv.Itoa(i), size) {
			t.Fatalf("leaf %d was there already", i)
		}
	}
}

// signs reports whether key is signed when it is asked for.
func signs(t *testing.T, c *leafCache, key string, size int) bool {
	t.Helper()
	fresh := false
	cert, err := c.get(key, func() (*signedLeaf, error) {
		fresh = true
		return fakeLeaf(size), nil
	})
	if err != nil || cert == nil {
		t.Fatalf("got %v, %v", cert, err)
	}
	return fresh
}

func TestLeafCacheBound(t *testing.T) {
	var c leafCache
	fill(t, &c, maxLeaves, 1)
	if signs(t, &c, "0", 1) {
		t.Fatal("0 is not kept")
	}
	if !signs(t, &c, "one more", 1) {
		t.Fatal("a new key was there")
	}
	if len(c.byKey) != maxLeaves || c.order.Len() != maxLeaves {
		t.Errorf("%d keys, %d entries, want %d", len(c.byKey), c.order.Len(), maxLeaves)
	}
	if signs(t, &c, "0", 1) {
		t.Error("0 was used last but one and is gone")
	}
	if !signs(t, &c, "1", 1) {
		t.Error("1 was not used for longest and is still there")
	}
}

func TestLeafCacheBytes(t *testing.T) {
	const size = 512 << 10
	var c leafCache
	fill(t, &c, 20, size)
	if want := maxLeafBytes/size - 1; len(c.byKey) != want { // the keys take some bytes too
		t.Errorf("%d leaves of %d bytes are kept, want %d", len(c.byKey), size, want)
	}
	signs(t, &c, "too big for all", maxLeafBytes)
	if len(c.byKey) != 0 || c.size != 0 {
		t.Errorf("%d leaves and %d bytes left", len(c.byKey), c.size)
	}
	if !signs(t, &c, "small", 1) || signs(t, &c, "small", 1) {
		t.Error("nothing is kept any more")
	}
}

// A leaf that is evicted while it is being signed still reaches those who wait for it.
func TestLeafCacheEvictedWhileSigning(t *testing.T) {
	var c leafCache
	signing, release := make(chan bool), make(chan bool)
	results := make(chan *tls.Certificate, 2)
	go func() {
		cert, _ := c.get("slow", func() (*signedLeaf, error) {
			signing <- true
			<-release
			return fakeLeaf(1), nil
		})
		results <- cert
	}()
	<-signing
	waiting := c.entry("slow", nil)
	go func() {
		leaf, _ := waiting.leaf()
		results <- leaf.cert
	}()
	fill(t, &c, maxLeaves, 1)
	close(release)
	if a, b := <-results, <-results; a == nil || a != b {
		t.Errorf("got %p and %p", a, b)
	}
	if len(c.byKey) != maxLeaves || c.size != c.sum() {
		t.Errorf("%d leaves, %d bytes, want %d, %d", len(c.byKey), c.size, maxLeaves, c.sum())
	}
	if !signs(t, &c, "slow", 1) {
		t.Error("slow is there although it was evicted")
	}
}

// sum adds up the sizes of the entries.
func (c *leafCache) sum() (n int) {
	for at := c.order.Front(); at != nil; at = at.Next() {
		n += at.Value.(*leafEntry).size
	}
	return n
}

// Neither an error nor a panic stays.
func TestLeafCacheFailure(t *testing.T) {
	var c leafCache
	fail := errors.New("fail")
	if _, err := c.get("a", func() (*signedLeaf, error) { return nil, fail }); err != fail {
		t.Errorf("got %v", err)
	}
	func() {
		defer func() {
			if recover() != fail {
				t.Error("the panic was lost")
			}
		}()
		c.get("a", func() (*signedLeaf, error) { panic(fail) })
	}()
	if !signs(t, &c, "a", 1) || c.order.Len() != 1 {
		t.Error("a failure was kept")
	}
}

func TestSignedLeafUsable(t *testing.T) {
	now := time.Now()
	leaf := fakeLeaf(1)
	for offset, want := range map[time.Duration]bool{
		-2 * time.Hour: false, // the clock was put back
		0:              true,
		23 * time.Hour: true,
		25 * time.Hour: false,
	} {
		if got := leaf.usable(now.Add(offset)); got != want {
			t.Errorf("after %v: %v", offset, got)
		}
	}
}
