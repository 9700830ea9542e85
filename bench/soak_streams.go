package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// streamer has HTTP/2 exchanges by net/http, one after the other on a connection.
type streamer struct {
	w   *worker
	way way
	*http.Transport
	nc net.Conn
}

func (w *worker) streamer() *streamer {
	s := &streamer{w: w, way: w.http2Way()}
	s.Transport = &http.Transport{
		DialTLSContext: func(context.Context, string, string) (nc net.Conn, err error) {
			if s.nc != nil {
				return nil, fmt.Errorf("%w: the connection has ended", errAnswer)
			}
			s.nc, err = s.way.start(s.way.Authority, s.way.config(s.way.ServerName))
			return s.nc, err
		},
		Protocols:          new(http.Protocols),
		DisableCompression: true,
	}
	s.Protocols.SetHTTP2(true)
	return s
}

func (s *streamer) close() {
	s.CloseIdleConnections()
	if s.nc != nil {
		s.nc.Close()
	}
}

// never is how many bytes are not reached.
const never = 1 << 60

// post sends up bytes and gets down bytes. It resets the stream after some bytes of either.
func (s *streamer) post(up, down, cutUp, cutDown int64) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	body, in := io.Pipe()
	defer body.Close()
	go func() {
		if err := writePattern(in, min(up, cutUp)); err == nil && cutUp < up {
			cancel()
			return
		}
		in.Close()
	}()
	url := fmt.Sprintf("https://%s/%d/%d", s.way.Authority, up, down)
	req, err := http.NewRequestWithContext(ctx, "POST", url, body)
	if err != nil {
		return err
	}
	req.ContentLength = up
	res, err := s.RoundTrip(req)
	if err == nil {
		err = checkStream(res, down, cutDown)
	}
	if cutUp < up && errors.Is(err, context.Canceled) || cutDown < down && err == nil {
		return errAborted
	}
	return err
}

// checkStream reads a response of n bytes, or less.
func checkStream(res *http.Response, n, cut int64) error {
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK || res.ContentLength != n {
		return fmt.Errorf("%w: %s, %d bytes", errAnswer, res.Status, res.ContentLength)
	}
	buf := make([]byte, medium)
	if cut < n {
		_, err := checkPattern(res.Body, cut, buf)
		return err
	}
	got, err := checkPattern(res.Body, -1, buf)
	if err == nil && got != n {
		err = fmt.Errorf("%w: %d bytes", errAnswer, got)
	}
	return err
}

func (w *worker) streamPosts() (n int, err error) {
	s := w.streamer()
	defer w.end(s)
	for range 1 + w.IntN(10) {
		if err := s.post(w.size(), w.size(), never, never); err != nil {
			return n, fmt.Errorf("stream %d: %w", n, err)
		}
		n++
	}
	return n, nil
}

// abortStream resets a stream. That must not harm the next one on its connection.
func (w *worker) abortStream() (int, error) {
	s := w.streamer()
	defer s.close()
	if err := s.post(small, small, never, never); err != nil {
		return 0, err
	}
	up, down := w.bulk(), w.bulk()
	cutUp, cutDown := w.Int64N(up), int64(never)
	if w.IntN(2) == 0 {
		up, cutUp, cutDown = small, never, w.Int64N(down)
	}
	err := s.post(up, down, cutUp, cutDown)
	if err := s.post(medium, medium, never, never); err != nil {
		return 1, fmt.Errorf("after a reset: %w", err)
	}
	return 2, err
}
