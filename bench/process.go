package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one that this program started.
type process struct {
	*control // nil if it is none of the roles
	cmd      *exec.Cmd
	in       io.WriteCloser
	said     *lastWords
}

// startProgram starts a program. It dies with this one, however that ends.
func startProgram(s *site, pinned bool, name string, args ...string) (*process, error) {
	p, err := newProcess(syscall.SIGTERM, name, args...)
	if err != nil {
		return nil, err
	}
	return p, s.start(p.cmd, pinned)
}

// startSelf starts a role, and tells it what to do.
func startSelf(s *site, pinned bool, role string, config any) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := newProcess(syscall.SIGKILL, self, roleArgument, role)
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.control = newControl(out, p.in)
	if err := s.start(p.cmd, pinned); err != nil {
		return nil, err
	}
	return p, p.send(config)
}

// newProcess prepares a process, in a group of its own, that gets a signal when this one dies.
func newProcess(atDeath syscall.Signal, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), said: new(lastWords)}
	p.cmd.Stderr = p.said
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: atDeath}
	p.cmd.WaitDelay = time.Second
	var err error
	p.in, err = p.cmd.StdinPipe()
	return p, err
}

// ask sends a question, unless it is nil, and waits for the answer.
func (p *process) ask(ctx context.Context, question, answer any) error {
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	if question != nil {
		if err := p.send(question); err != nil {
			return p.explain(err)
		}
	}
	err := p.receive(answer)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return p.explain(err)
}

// explain adds to an error what the process complained of.
func (p *process) explain(err error) error {
	if words := p.said.String(); err != nil && words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// ended reports whether the process has ended by itself (proc_pid_stat(5), state).
func (p *process) ended() bool {
	fields := stat(p.cmd.Process.Pid)
	return len(fields) == 0 || fields[0] == "Z"
}

func (p *process) kill() { syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// end ends a process with all of its children, and waits for it.
func (p *process) end() {
	if p == nil || p.cmd.Process == nil {
		return
	}
	p.in.Close()
	if p.control == nil {
		p.terminate()
	}
	p.kill()
	p.cmd.Wait()
}

// terminate gives a program time to clean up.
func (p *process) terminate() {
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	for range 200 {
		if p.ended() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// lastWords keeps the end of what a process writes to its standard error.
type lastWords struct {
	mu  sync.Mutex
	end []byte
}

// Write implements io.Writer.
func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = append(w.end, p...)
	w.end = w.end[max(0, len(w.end)-400):]
	return len(p), nil
}

// String returns it on one line.
func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(strings.Fields(string(bytes.ToValidUTF8(w.end, nil))), " ")
}

// whatever is a question that says only that it is time.
var whatever = json.RawMessage(`0`)
