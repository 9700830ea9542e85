package main

import (
	"fmt"
	"net/http/httputil"
)

func (w *worker) plain() (int, error)       { return w.exchanges(w.httpWay(), 30, 6) }
func (w *worker) plainPosts() (int, error)  { return w.exchanges(w.httpWay(), 10, 1) }
func (w *worker) plainChurn() (int, error)  { return w.exchanges(w.httpWay(), 1, 6) }
func (w *worker) secure() (int, error)      { return w.exchanges(w.tlsWay(), 30, 6) }
func (w *worker) securePosts() (int, error) { return w.exchanges(w.tlsWay(), 10, 1) }

// through makes TLS that a hook leaves to client and origin.
func (w *worker) through() (int, error) {
	return w.exchanges(w.way(func(p *originPorts) int { return p.TLS }).byTLS(throughName, "http/1.1"), 5, 6)
}

// exchanges has up to most exchanges on a connection. One in posts is a POST.
func (w *worker) exchanges(way way, most, posts int) (n int, err error) {
	e := newExchanger(&job{Way: way}, "GET")
	if err := e.connect(); err != nil {
		return 0, err
	}
	defer w.end(e)
	for range 1 + w.IntN(most) {
		if err := w.exchange(e, w.IntN(posts) == 0); err != nil {
			return n, fmt.Errorf("exchange %d: %w", n, err)
		}
		if n++; e.closing { // as after an answer that overtook the end of its request
			break
		}
	}
	return n, nil
}

func (w *worker) exchange(e *exchanger, post bool) error {
	e.ask(w.size())
	if post {
		return w.post(e, w.size())
	}
	_, _, err := e.do()
	return err
}

// ask makes the next requests for n bytes.
func (e *exchanger) ask(n int64) {
	e.job.Size = n
	e.request = request(e.job, "GET", e.job.Way.Authority)
}

// post sends n bytes of content, in chunks or of known length.
func (w *worker) post(e *exchanger, n int64) error {
	inChunks := w.IntN(2) == 0
	if _, err := e.nc.Write(postHead(e.job, n, inChunks)); err != nil {
		return err
	}
	if err := sendContent(e, n, inChunks); err != nil {
		return err
	}
	body, err := e.answer()
	if err == nil {
		_, err = e.check(body)
	}
	return err
}

func sendContent(e *exchanger, n int64, inChunks bool) error {
	if !inChunks {
		return writePattern(e.nc, n)
	}
	chunks := httputil.NewChunkedWriter(e.nc)
	if err := cmpErr(writePattern(chunks, n), chunks.Close()); err != nil {
		return err
	}
	_, err := e.nc.Write([]byte("\r\n"))
	return err
}

// postHead returns the head of a request with n bytes of content.
func postHead(j *job, n int64, inChunks bool) []byte {
	target := fmt.Sprintf("/%d/%d", n, j.Size)
	if !j.Way.TLS {
		target = "http://" + j.Way.Authority + target
	}
	framing := fmt.Sprintf("Content-Length: %d", n)
	if inChunks {
		framing = "Transfer-Encoding: chunked"
	}
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n\r\n", target, j.Way.Authority, framing)
}
