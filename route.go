package mitm

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// route is a destination with the decision about it.
type route struct {
	conn   *Conn
	action Action
	err    error // why it is rejected
	key    originKey
	host   string // not empty: what the Host field becomes
	once   bool   // a hook's destination, for one exchange: nothing stays with it

	handler http.Handler // answers in place of an origin
	pages   bool         // handler is the proxy's own: no hooks are called around it

	site     string // scheme and authority, which an URL there begins with
	verified string // the name that the origin's certificate is verified for, "" if none

	mu    sync.Mutex
	bound *origin     // idle and bound to this client, see origin.bound
	idle  *time.Timer // until bound is watched; nil: there was none
	over  bool        // nothing is kept any more
	early *earlyDial  // a dial that began before a request was read
}

// takeEarly hands the early dial out, if there is one.
func (r *route) takeEarly() (e *earlyDial) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, r.early = r.early, nil
	return e
}

// hostField is what the Host field becomes where the client named no host.
func (r *route) hostField() string {
	if r.host != "" {
		return r.host
	}
	return r.authority()
}

// authority is how an URL, or a Host field, names where the route leads.
func (r *route) authority() string {
	if r.key.tls {
		return withoutPort(r.key.addr, "443")
	}
	return withoutPort(r.key.addr, "80")
}

// maxRoutes bounds how many destinations a client connection remembers decisions for.
const maxRoutes = 64

// routes remembers, for one client connection, what was decided about the
// destinations that its requests named.
type routes struct {
	mu     sync.Mutex
	byName map[string]*route
	name   []byte // scratch: scheme, host and port
	last   *route // of the name in lastOf
	lastOf string

	deciding map[string]chan struct{} // closed when hooks have decided about a name
}

// find returns the route that line names, if it was decided before. Asking for the same
// one again and again costs no memory.
func (rs *routes) find(line *requestLine) *route {
	name := append(rs.name[:0], "http"...)
	if line.https {
		name = append(name, 's')
	}
	name = append(append(append(name, '|'), line.host...), '|')
	rs.name = strconv.AppendUint(name, uint64(line.port), 10)
	if rs.last != nil && string(rs.name) == rs.lastOf {
		return rs.last
	}
	r := rs.byName[string(rs.name)]
	if r != nil {
		rs.last, rs.lastOf = r, string(rs.name)
	}
	return r
}

// add remembers r for a name of find.
func (rs *routes) add(name string, r *route) {
	if rs.byName == nil {
		rs.byName = map[string]*route{}
	}
	if len(rs.byName) >= maxRoutes {
		for name, old := range rs.byName {
			old.closeBound()
			delete(rs.byName, name)
		}
	}
	rs.last, rs.lastOf = r, name
	rs.byName[name] = r
}

// close closes connections that only this client may use.
func (rs *routes) close() {
	for _, r := range rs.byName {
		r.closeBound()
	}
}

// closeBound closes the kept connection, and what a stream that is under way would keep.
func (r *route) closeBound() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.bind(nil)
}

// bind keeps o, in place of the one before, for the client that it is bound to.
func (r *route) bind(o *origin) {
	r.mu.Lock()
	old := r.bound
	if r.idle != nil {
		r.idle.Stop()
	}
	if r.bound = o; r.over && o != nil {
		r.bound = nil
		defer o.close()
	}
	r.mu.Unlock()
	if old != nil {
		old.close()
	}
}

// settle has o, which is bound, watched when it was idle for a while, see pool.settle.
func (r *route) settle(o *origin, p *pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bound != o {
		return
	}
	if o.s.low == nil {
		o.listen(p, func() { r.woken(o, p) })
		return
	}
	r.idle = time.AfterFunc(settleTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.bound == o {
			o.unpark = p.parking.park(o.s, func() { r.woken(o, p) })
		}
	})
}

// woken closes o if something has happened that speaks against its use.
func (r *route) woken(o *origin, p *pool) {
	r.mu.Lock()
	if r.bound != o {
		r.mu.Unlock()
		return
	}
	r.bound = nil
	o.leave()
	r.mu.Unlock()
	if !o.quiet() {
		o.close()
		return
	}
	r.bind(o)
	r.settle(o, p)
}

// unbind hands the kept connection out, if there is one.
func (r *route) unbind() (o *origin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o, r.bound = r.bound, nil; o != nil {
		if r.idle != nil {
			r.idle.Stop()
		}
		o.leave()
	}
	return o
}
