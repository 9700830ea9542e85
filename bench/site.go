package main

import (
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// site is where processes run: a thread of its own, whose namespace and CPUs they inherit.
type site struct{ work chan func() }

// newSite returns a site in the namespace of this process, or in a network namespace of its
// own with nothing but loopback, which needs root.
func newSite(isolated bool) (*site, error) {
	s := &site{make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		var err error
		if isolated {
			err = unix.Unshare(unix.CLONE_NEWNET)
		}
		ready <- err
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		close(s.work)
		return nil, err
	}
	if !isolated {
		return s, nil
	}
	_, err := s.run("", "ip", "link", "set", "lo", "up")
	return s, err
}

func (s *site) close() { close(s.work) }

// do runs f at the site.
func (s *site) do(f func()) {
	done := make(chan struct{})
	s.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// start starts a process at the site, on one CPU if pinned.
func (s *site) start(cmd *exec.Cmd, pinned bool) (err error) {
	s.do(func() {
		if pinned {
			var all unix.CPUSet
			if err = unix.SchedGetaffinity(0, &all); err != nil {
				return
			}
			defer unix.SchedSetaffinity(0, &all)
			if err = unix.SchedSetaffinity(0, lastCPU(&all)); err != nil {
				return
			}
		}
		err = cmd.Start()
	})
	return err
}

// lastCPU returns the last of some CPUs; the first often has to serve interrupts too.
func lastCPU(all *unix.CPUSet) *unix.CPUSet {
	var one unix.CPUSet
	for i := len(all) * 64; i >= 0; i-- {
		if all.IsSet(i) {
			one.Set(i)
			break
		}
	}
	return &one
}

// run runs a program at the site to its end.
func (s *site) run(input, name string, args ...string) (out string, err error) {
	cmd := exec.Command(program(name), args...)
	cmd.Stdin = strings.NewReader(input)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	if err = s.start(cmd, false); err == nil {
		err = cmd.Wait()
	}
	return b.String(), err
}

// freePort returns a port that nobody listens on, for programs that can't choose one.
func (s *site) freePort() (port int, err error) {
	s.do(func() {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err == nil {
			port = l.Addr().(*net.TCPAddr).Port
			l.Close()
		}
	})
	return port, err
}

// answers reports whether somebody listens on a port.
func (s *site) answers(port int) (ok bool) {
	s.do(func() {
		nc, err := net.Dial("tcp", loopback(port))
		if ok = err == nil; ok {
			nc.Close()
		}
	})
	return ok
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
