package mitm

import (
	"context"
	"slices"
	"sync"
)

// origins are the origin connections that are in use for one client connection, so that
// they can be cut with it.
type origins struct {
	pool   *pool
	dialer *dialer

	mu    sync.Mutex
	inUse []*origin
	ended error // why the client connection is over
}

// dial opens a connection that ends with the client.
func (os *origins) dial(ctx context.Context, key originKey, c *Conn) (*origin, error) {
	o, err := os.dialer.open(ctx, key, c)
	if err != nil {
		return nil, err
	}
	return o, os.attach(o)
}

// secure starts TLS on a connection that is in use.
func (os *origins) secure(ctx context.Context, o *origin, key originKey, c *Conn) (*origin, error) {
	secured, err := os.dialer.secure(ctx, o, key, c)
	os.detach(o)
	if err != nil {
		return nil, err
	}
	return secured, os.attach(secured)
}

// idle returns a kept connection, or nil.
func (os *origins) idle(key originKey) (*origin, error) {
	o := os.pool.get(key)
	if o == nil {
		return nil, nil
	}
	return o, os.attach(o)
}

// attach makes o end with the client; if that is over already, o is closed.
func (os *origins) attach(o *origin) error {
	os.mu.Lock()
	defer os.mu.Unlock()
	if os.ended != nil {
		o.s.close()
		return os.ended
	}
	os.inUse = append(os.inUse, o)
	return nil
}

// detach ends what attach began. It reports whether o was not cut meanwhile.
func (os *origins) detach(o *origin) (whole bool) {
	os.mu.Lock()
	defer os.mu.Unlock()
	if i := slices.Index(os.inUse, o); i >= 0 {
		os.inUse = slices.Delete(os.inUse, i, i+1)
	}
	return os.ended == nil
}

// close gives o up.
func (os *origins) close(o *origin) {
	os.detach(o)
	o.s.close()
}

// cut resets all that is in use and refuses more.
func (os *origins) cut(cause error) {
	os.mu.Lock()
	defer os.mu.Unlock()
	os.ended = cause
	for _, o := range os.inUse {
		o.s.reset()
	}
}
