package main

import (
	"crypto/tls"
	"net"
)

// aborted counts an operation after n others. If the worker has cut it off, its error is the
// worker's own.
func (w *worker) aborted(n int, err error) (int, error) {
	if err != nil && w.last.blown.Load() {
		err = errAborted
	}
	last, err := one(err)
	return n + last, err
}

// abortConnect ends a connection in the middle of a CONNECT, or of the answer.
func (w *worker) abortConnect() (int, error) {
	way := w.way(func(p *originPorts) int { return p.Raw })
	way.wrap = func(nc net.Conn) net.Conn {
		w.light(nc)
		if w.IntN(2) == 0 {
			w.last.writes.Store(w.Int64N(60))
		} else {
			w.last.reads.Store(w.Int64N(30))
		}
		return w.last
	}
	nc, err := way.tunnel(way.Authority)
	if err == nil {
		nc.Close()
	}
	return w.aborted(0, err)
}

// abortHandshake ends a connection somewhere in a TLS handshake, or just after.
func (w *worker) abortHandshake() (int, error) {
	way := w.tlsWay()
	if w.IntN(2) == 0 {
		way = w.http2Way()
	}
	nc, err := way.tunnel(way.Authority)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	if w.IntN(2) == 0 {
		w.last.writes.Store(w.Int64N(2000))
	} else {
		w.last.reads.Store(w.Int64N(2500))
	}
	err = tls.Client(nc, way.config(way.ServerName)).Handshake()
	return w.aborted(0, err)
}

// abortHead ends a connection in the middle of a request's head, which is often not the first
// request on it.
func (w *worker) abortHead() (int, error) {
	return w.abort(func(e *exchanger) error {
		w.last.writes.Store(w.Int64N(int64(len(e.request))))
		_, _, err := e.do()
		return err
	})
}

// abortUpload ends a connection in the middle of a request's content.
func (w *worker) abortUpload() (int, error) {
	return w.abort(func(e *exchanger) error {
		n := w.bulk()
		w.last.writes.Store(200 + w.Int64N(n-200))
		return w.post(e, n)
	})
}

// abortResponse ends a connection in the middle of a response.
func (w *worker) abortResponse() (int, error) {
	return w.abort(func(e *exchanger) error {
		e.ask(w.bulk())
		w.last.reads.Store(w.Int64N(e.job.Size))
		_, _, err := e.do()
		return err
	})
}

// abort connects, and has an exchange before cut, or not.
func (w *worker) abort(cut func(e *exchanger) error) (n int, err error) {
	e := newExchanger(&job{Size: small, Way: w.anyWay()}, "GET")
	if err := e.connect(); err != nil {
		return 0, err
	}
	defer e.close()
	if w.IntN(2) == 0 {
		if _, _, err := e.do(); err != nil {
			return 0, err
		}
		if n++; e.closing {
			return n, nil
		}
	}
	return w.aborted(n, cut(e))
}

// abortTunnel ends a tunnel in which many bytes are on their way.
func (w *worker) abortTunnel() (int, error) {
	t := w.tunnelClient()
	t.what = []byte{orderDown, orderUp, orderBoth}[w.IntN(3)]
	defer t.close()
	if err := t.open(); err != nil {
		return 0, err
	}
	if t.what == orderDown || t.what == orderBoth && w.IntN(2) == 0 {
		w.last.reads.Store(w.Int64N(t.job.Size))
	} else {
		w.last.writes.Store(w.Int64N(t.job.Size))
	}
	_, _, err := t.do()
	return w.aborted(0, err)
}

// abortHTTP2 ends a connection that has several streams.
func (w *worker) abortHTTP2() (n int, err error) {
	c := &http2Client{job: &job{Size: w.bulk(), Way: w.http2Way()}}
	defer c.close()
	if err := c.open(); err != nil {
		return 0, err
	}
	w.last.reads.Store(w.Int64N(4 * c.job.Size))
	for range 10 {
		if _, _, err := c.do(); err != nil {
			return w.aborted(n, err)
		}
		n++
	}
	return n, nil
}
