package main

import (
	"math"
	"net"
	"sync/atomic"
)

// fuse is a connection that its client ends after some bytes, in the middle of whatever that
// may be.
type fuse struct {
	net.Conn
	reset         bool         // when it blows
	reads, writes atomic.Int64 // bytes until then
	blown         atomic.Bool
}

func newFuse(nc net.Conn, reset bool) *fuse {
	f := &fuse{Conn: nc, reset: reset}
	f.reads.Store(math.MaxInt64)
	f.writes.Store(math.MaxInt64)
	return f
}

// Read implements net.Conn.
func (f *fuse) Read(p []byte) (int, error) {
	left := f.reads.Load()
	if left <= 0 {
		return 0, f.blow()
	}
	n, err := f.Conn.Read(p[:min(int64(len(p)), left)])
	f.reads.Add(-int64(n))
	return n, err
}

// Write implements net.Conn.
func (f *fuse) Write(p []byte) (int, error) {
	left := f.writes.Load()
	n, err := f.Conn.Write(p[:min(int64(len(p)), left)])
	f.writes.Add(-int64(n))
	if err == nil && n < len(p) {
		err = f.blow()
	}
	return n, err
}

func (f *fuse) blow() error {
	f.blown.Store(true)
	if f.reset {
		f.linger()
	}
	f.Conn.Close()
	return errAborted
}

// linger makes closing a reset.
func (f *fuse) linger() {
	if tc, ok := f.Conn.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
}
