package mitm

import (
	"crypto/tls"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxIdlePerOrigin is enough for a thousand busy clients: with less they would take turns
	// in dialling, which costs far more than an idle connection.
	maxIdlePerOrigin = 1024
	maxIdleOrigins   = 2048
	// maxPoolKeys is twice what connections need, so that keys without any are looked for seldom.
	maxPoolKeys = 2 * maxIdleOrigins
)

// originKey is everything that makes origin connections interchangeable.
type originKey struct {
	addr       string
	options    socketOptions
	tls        bool
	serverName string      // that is asked for, and that the certificate must have
	alpn       string      // protocols offered, the preferred one first, with commas between
	config     *tls.Config // nil: the one of all origins
	nest       *nest       // nil: the connection leads there by itself
}

// socket returns the part of the key that matters before TLS.
func (k originKey) socket() originKey {
	return originKey{addr: k.addr, options: k.options, nest: k.nest}
}

// isLong reports whether names that clients chose make the key too long to be remembered.
func (k originKey) isLong() bool { return len(k.addr)+len(k.serverName)+len(k.alpn) > maxKeyNames }

// mayHTTP2 reports whether connections may turn out to speak HTTP/2.
func (k originKey) mayHTTP2() bool { return strings.HasPrefix(k.alpn, protoHTTP2) }

// forHTTP returns the key of connections for clients that speak the protocol.
func (k originKey) forHTTP(p Protocol) originKey {
	switch {
	case p != HTTP2:
		return k.for1()
	case k.tls:
		k.alpn = protoHTTP2 + "," + protoHTTP1
	default:
		k.alpn = protoH2C
	}
	return k
}

// for1 returns the key of connections that carry HTTP/1.
func (k originKey) for1() originKey {
	if k.tls {
		k.alpn = protoHTTP1
	}
	return k
}

// origin is a connection to an origin server.
type origin struct {
	s         *stream
	key       originKey
	state     *tls.ConnectionState // nil: no TLS
	reused    bool                 // it carried an exchange before, so it may turn out to be stale
	bound     bool                 // it carried credentials that authenticate the connection
	idleSince time.Time
	listening chan error // see listen
	unpark    func()     // ends what watches the idle connection; nil: nothing does
}

// choseHTTP2 reports whether HTTP/2 was negotiated.
func (o *origin) choseHTTP2() bool {
	return o.state != nil && o.state.NegotiatedProtocol == protoHTTP2
}

// listen reads from an idle connection that can't be probed, because it is no socket. What
// the read ends with tells whether it may be used again; woken is called if it may not.
func (o *origin) listen(p *pool, woken func()) {
	listening := make(chan error, 1)
	o.listening = listening
	o.s.readWithin(0)
	p.listeners.Go(func() {
		err := o.s.fill(bufferSize)
		listening <- err
		if !isTimeout(err) {
			woken()
		}
	})
}

// quiet ends the idle time of a connection. It returns false if the origin has closed it or
// has sent something that nobody asked for.
func (o *origin) quiet() bool {
	if o.listening == nil {
		return !o.s.pending()
	}
	o.s.interrupt()
	err := <-o.listening
	o.listening = nil
	o.s.resume()
	return isTimeout(err) && (o.s.tls == nil || !o.s.tls.broken)
}

// leave ends the watch over an idle connection.
func (o *origin) leave() {
	if o.unpark != nil {
		o.unpark()
		o.unpark = nil
	}
}

// close closes an idle connection.
func (o *origin) close() {
	o.leave()
	o.s.close()
	if o.listening != nil {
		<-o.listening
	}
	o.s.drop()
}

// pool keeps idle origin connections. The one that was used last is used first.
type pool struct {
	mu     sync.Mutex
	idle   map[originKey][]*origin
	count  int
	reaper *alarm        // runs while the pool is not empty
	keep   time.Duration // for how long; negative: no limit
	closed bool

	settler   *alarm // the latest that was set for sockets that are not watched yet; nil: there were none
	settling  bool   // it runs
	parking   parking
	listeners sync.WaitGroup
}

// settleTime is how long a connection is idle before it is watched: watching one that is used more
// often would only cost system calls, and it is checked before its use anyway.
const settleTime = time.Second

// get returns an idle connection, which may be closed or not quiet any more, or nil.
func (p *pool) get(key originKey) *origin {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[key]
	if len(list) == 0 {
		return nil
	}
	o := list[len(list)-1]
	list[len(list)-1] = nil
	p.idle[key] = list[:len(list)-1]
	p.count--
	o.leave()
	return o
}

// put keeps o for another exchange, or closes it if the pool is full or closed.
func (p *pool) put(o *origin) {
	o.reused = true
	o.idleSince = time.Now()
	if !p.push(o) {
		o.close()
	}
}

// push puts o behind those that were used before it.
func (p *pool) push(o *origin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= maxIdleOrigins || len(p.idle[o.key]) >= maxIdlePerOrigin {
		return false
	}
	if p.idle == nil {
		p.idle = map[originKey][]*origin{}
	}
	if len(p.idle) >= maxPoolKeys {
		p.forget()
	}
	list := p.idle[o.key]
	i := len(list)
	for i > 0 && list[i-1].idleSince.After(o.idleSince) {
		i--
	}
	p.idle[o.key] = slices.Insert(list, i, o)
	p.count++
	switch {
	case o.s == nil:
	case o.s.low == nil:
		o.listen(p, func() { p.woken(o) })
	case !p.settling:
		p.settle()
	}
	if p.reaper == nil && p.keep > 0 {
		p.reaper = newAlarm(p.keep, p.reap)
	}
	return true
}

// settle has sockets that stay idle watched, in a while. It is called with the lock.
func (p *pool) settle() {
	p.settling, p.settler = true, newAlarm(settleTime, p.watch)
}

// watch has the sockets watched that were idle for a while.
func (p *pool) watch() (rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settling = false
	again := false
	for _, list := range p.idle {
		for _, o := range list {
			switch {
			case o.unpark != nil || o.s.low == nil:
			case time.Since(o.idleSince) < settleTime/2:
				again = true
			default:
				o.unpark = p.parking.park(o.s, func() { p.woken(o) })
			}
		}
	}
	if !again || p.closed {
		return 0
	}
	p.settling = true
	return settleTime
}

// woken closes an idle connection on which something has happened that speaks against its use. Tickets
// of TLS do not.
func (p *pool) woken(o *origin) {
	if p.remove(o) && (!o.quiet() || !p.push(o)) {
		o.close()
	}
}

// remove takes o out of the pool; false if it is not there.
func (p *pool) remove(o *origin) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[o.key]
	i := slices.Index(list, o)
	if i < 0 {
		return false
	}
	p.idle[o.key] = slices.Delete(list, i, i+1)
	p.count--
	o.leave()
	return true
}

// forget drops the keys that have no connections. One whose last connection is in use stays at
// first, with the memory for its list: the connection will come back.
func (p *pool) forget() {
	for key, list := range p.idle {
		if len(list) == 0 {
			delete(p.idle, key)
		}
	}
}

// reap closes what was idle for too long and comes again as long as there is more. Closing
// may take its time, so it happens outside the lock.
func (p *pool) reap() (rest time.Duration) {
	old, rest := p.expired()
	for _, o := range old {
		o.close()
	}
	return rest
}

// expired takes out what was idle for too long, and says when to look again.
func (p *pool) expired() (old []*origin, rest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, list := range p.idle {
		n := 0
		for n < len(list) && time.Since(list[n].idleSince) >= p.keep {
			n++
		}
		old = append(old, list[:n]...)
		if p.idle[key] = slices.Delete(list, 0, n); len(p.idle[key]) == 0 {
			delete(p.idle, key)
		}
	}
	p.count -= len(old)
	if p.count > 0 {
		return old, p.keep / 2
	}
	p.reaper = nil
	return old, 0
}

// close closes all idle connections and takes no more.
func (p *pool) close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.count, p.closed = nil, 0, true
	reaper, settler := p.reaper, p.settler
	p.mu.Unlock()
	reaper.stop()
	settler.stop()
	for _, list := range idle {
		for _, o := range list {
			o.close()
		}
	}
	p.listeners.Wait()
	p.parking.close()
}
