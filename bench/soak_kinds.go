package main

import (
	"fmt"
	"strings"
	"time"
)

// soakKind is something that workers do again and again. It returns how many operations were
// done, and checked, and an error: errAborted if the worker did not want to go on.
type soakKind struct {
	name   string
	weight int
	do     func(w *worker) (int, error)
}

var soakKinds = []soakKind{
	{"http", 5, (*worker).plain},
	{"http, posts", 4, (*worker).plainPosts},
	{"http, new connections", 12, (*worker).plainChurn},
	{"http, events", 3, (*worker).plainEvents},
	{"tls", 5, (*worker).secure},
	{"tls, posts", 4, (*worker).securePosts},
	{"tls, new connections", 10, (*worker).secureChurn},
	{"tls, events", 3, (*worker).secureEvents},
	{"tls, not opened", 4, (*worker).through},
	{"http2", 5, (*worker).streams},
	{"http2, posts", 4, (*worker).streamPosts},
	{"tunnel", 6, (*worker).tunnel},
	{"idle, closed by chance", 16, (*worker).idle},
	{"abort: connect", 8, (*worker).abortConnect},
	{"abort: handshake", 10, (*worker).abortHandshake},
	{"abort: request head", 10, (*worker).abortHead},
	{"abort: upload", 7, (*worker).abortUpload},
	{"abort: response", 7, (*worker).abortResponse},
	{"abort: tunnel", 6, (*worker).abortTunnel},
	{"abort: http2 connection", 6, (*worker).abortHTTP2},
	{"abort: http2 stream", 7, (*worker).abortStream},
}

// httpWay leads to an origin without TLS, tlsWay and http2Way with TLS, by one of a few names:
// the leaves of all are signed while the proxy gets warm.
func (w *worker) httpWay() way { return w.way(func(p *originPorts) int { return p.HTTP }) }

func (w *worker) tlsWay() way {
	return w.way(func(p *originPorts) int { return p.TLS }).byTLS(freshName(0, w.IntN(32))+"."+domain, "http/1.1")
}

func (w *worker) http2Way() way {
	return w.way(func(p *originPorts) int { return p.HTTP2 }).byTLS(hostName, "h2")
}

// byTLS returns the way by TLS for a name of the origin.
func (w way) byTLS(name, protocol string) way {
	w.TLS, w.ServerName, w.Protocol = true, name, protocol
	w.Authority = strings.Replace(w.Authority, "127.0.0.1", name, 1)
	return w
}

// anyWay leads to HTTP/1, with TLS or without.
func (w *worker) anyWay() way {
	if w.IntN(2) == 0 {
		return w.httpWay()
	}
	return w.tlsWay()
}

// secureChurn makes some connections for one exchange each, and resumes TLS sessions.
func (w *worker) secureChurn() (int, error) {
	way := w.tlsWay()
	way.Resume = w.IntN(2) == 0
	return w.session(newHandshaker(&job{Size: w.size(), Way: way}, 0), 4)
}

func (w *worker) plainEvents() (int, error)  { return w.events(w.httpWay()) }
func (w *worker) secureEvents() (int, error) { return w.events(w.tlsWay()) }

// events leaves a stream that does not end.
func (w *worker) events(way way) (int, error) {
	j := &job{Kind: events, Way: way}
	return w.session(&eventReader{exchanger: *newExchanger(j, "GET")}, 20)
}

// streams leaves some unfinished on its connection.
func (w *worker) streams() (int, error) {
	return w.session(&http2Client{job: &job{Size: w.size(), Way: w.http2Way()}}, 40)
}

// session opens a client, lets it do up to most operations, and closes it.
func (w *worker) session(c client, most int) (n int, err error) {
	defer w.end(c)
	if err := c.open(); err != nil {
		return 0, err
	}
	for range 1 + w.IntN(most) {
		if _, _, err := c.do(); err != nil {
			return n, fmt.Errorf("operation %d: %w", n, err)
		}
		n++
	}
	return n, nil
}

// tunnel has short messages and long ones.
func (w *worker) tunnel() (int, error) {
	t := w.tunnelClient()
	t.job.Size = w.size()
	return w.session(t, 10)
}

// tunnelClient returns one that sends or gets, or both.
func (w *worker) tunnelClient() *tunnelClient {
	what := []byte{orderPing, orderPing, orderDown, orderUp, orderBoth}[w.IntN(5)]
	way := w.way(func(p *originPorts) int { return p.Raw })
	return &tunnelClient{job: &job{Size: w.bulk(), Way: way}, what: what}
}

// shortTunnel has a message each way. Three of four are closed by a reset, which leaves no port
// in TIME_WAIT on either side of the proxy; the others are for the way that most clients close
// one, and have origins and source addresses enough.
func (w *worker) shortTunnel() (int, error) {
	t := w.tunnelClient()
	if err := t.open(); err != nil {
		return 0, err
	}
	if w.IntN(4) > 0 {
		w.last.linger()
	}
	t.close()
	return 1, nil
}

// held is a connection that is kept for a while.
type held struct {
	client
	fuse *fuse
}

const maxHeld = 12

// one is how many operations were done if this one was.
func one(err error) (int, error) {
	if err != nil {
		return 0, err
	}
	return 1, nil
}

// idle opens a connection to be kept, or ends one that was kept; a tunnel often has to show
// that it is still there.
func (w *worker) idle() (int, error) {
	if len(w.held) < maxHeld && w.IntN(2) == 0 {
		return w.hold()
	}
	if len(w.held) == 0 {
		return 0, nil
	}
	i := w.IntN(len(w.held))
	h := w.held[i]
	w.held = append(w.held[:i], w.held[i+1:]...)
	w.last = h.fuse
	defer w.end(h)
	if t, ok := h.client.(*tunnelClient); ok && w.IntN(2) == 0 {
		t.nc.SetDeadline(time.Now().Add(soakLimit))
		return one(t.ping())
	}
	return 0, errAborted
}

func (w *worker) hold() (int, error) {
	var c client = w.tunnelClient()
	switch w.IntN(6) {
	case 0:
		c = newExchanger(&job{Size: small, Way: w.anyWay()}, "GET")
	case 1:
		c = &http2Client{job: &job{Size: small, Way: w.http2Way()}}
	}
	if err := c.open(); err != nil {
		c.close()
		return 0, err
	}
	w.held = append(w.held, held{c, w.last})
	return 1, nil
}

// release ends what is still kept.
func (w *worker) release() {
	for _, h := range w.held {
		w.last = h.fuse
		w.end(h)
	}
	w.held = nil
}
