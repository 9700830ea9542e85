package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"time"
)

// tunnelClient gives orders to the raw service through a tunnel.
type tunnelClient struct {
	job  *job
	what byte
	nc   net.Conn
	buf  []byte
}

// open sends a first message through the tunnel, after which it is known to be there.
func (t *tunnelClient) open() (err error) {
	if t.nc, err = t.job.Way.tunnel(t.job.Way.Authority); err != nil {
		return err
	}
	return t.ping()
}

func (t *tunnelClient) do() (n int64, d time.Duration, err error) {
	n = t.job.Size
	begin := time.Now()
	switch t.what {
	case orderPing:
		err = t.ping()
	case orderDown:
		err = cmpErr(t.order(n), t.receive(n))
	case orderUp:
		err = cmpErr(t.order(n), writePattern(t.nc, n), t.answer(n))
	case orderBoth:
		err = t.both(n)
		n *= 2
	}
	return n, time.Since(begin), err
}

func (t *tunnelClient) order(n int64) error {
	_, err := t.nc.Write(order(t.what, n))
	return err
}

func (t *tunnelClient) receive(n int64) error {
	if t.buf == nil {
		t.buf = make([]byte, rawBuffer)
	}
	_, err := checkPattern(t.nc, n, t.buf)
	return err
}

// answer reads what the service says when it got n bytes of content.
func (t *tunnelClient) answer(n int64) error {
	var b [orderSize]byte
	_, err := io.ReadFull(t.nc, b[:])
	if err == nil && !bytes.Equal(b[:], order(t.what, n)) {
		err = fmt.Errorf("%w: %x", errAnswer, b)
	}
	return err
}

func (t *tunnelClient) both(n int64) error {
	if err := t.order(n); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() { sent <- writePattern(t.nc, n) }()
	err := t.receive(n)
	if err != nil {
		t.nc.Close()
	}
	return cmpErr(err, <-sent, t.answer(n))
}

var pingMessage = append(order(orderPing, pingSize), patternAt(0, pingSize)...)

func (t *tunnelClient) ping() error {
	if _, err := t.nc.Write(pingMessage); err != nil {
		return err
	}
	var b [pingSize]byte
	_, err := io.ReadFull(t.nc, b[:])
	if err == nil && !bytes.Equal(b[:], pingMessage[orderSize:]) {
		err = fmt.Errorf("%w: %x", errAnswer, b)
	}
	return err
}

func (t *tunnelClient) close() {
	if t.nc != nil {
		t.nc.Close()
	}
}

// tunnelOpener makes a new tunnel for each operation, with one message each way.
type tunnelOpener struct{ job *job }

func (t *tunnelOpener) open() error {
	_, _, err := t.do()
	return err
}

func (t *tunnelOpener) do() (int64, time.Duration, error) {
	begin := time.Now()
	c := tunnelClient{job: t.job, what: orderPing}
	defer c.close()
	err := c.open()
	return 0, time.Since(begin), err
}

func (t *tunnelOpener) close() {}
