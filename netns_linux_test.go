package mitm_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// labVariable gives the test binary a part in the lab: three network namespaces with a
// client, a router on which the proxy runs, and servers. They have no names, so they end
// with the processes in them, however those end.
const labVariable = "MITM_LAB"

func init() {
	if os.Getenv(labVariable) == "holder" {
		io.Copy(io.Discard, os.Stdin) // ends with the process that keeps the other end
		os.Exit(0)
	}
}

// TestNetns runs the tests that are called TestInside in the namespace of the router.
func TestNetns(t *testing.T) {
	runInside(t, "^TestInside", os.Geteuid() != 0)
}

// What does not need root must work in a user namespace too.
func TestNetnsUnprivileged(t *testing.T) {
	skipUnless(t, os.Geteuid() == 0, "TestNetns is without privileges already")
	runInside(t, "^TestInside(Destination|Direct|Loop|Many|Spoof)", true)
}

func runInside(t *testing.T, tests string, user bool) {
	lookTool(t, "nft")
	lookTool(t, "ip")
	// Without -v the output is that of the failed ones, and nothing else.
	args := []string{"-test.run=" + tests, "-test.short=" + strconv.FormatBool(testing.Short()),
		"-test.v=" + strconv.FormatBool(testing.Verbose())}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+(time.Until(deadline)*9/10).String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), labVariable+"=router")
	cmd.SysProcAttr = newNetwork(user)
	runtime.LockOSThread() // whose end is what Pdeathsig is about
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	skipUnless(t, !cannotUnshare(err), fmt.Sprintf("needs network namespaces: %v", err))
	t.Logf("%s", out)
	if err != nil || strings.Contains(string(out), "no tests to run") {
		t.Error("in the namespace:", err)
	}
}

// cannotUnshare tells a kernel that does not allow the namespaces from a failed test.
func cannotUnshare(err error) bool {
	_, ran := err.(*exec.ExitError)
	return err != nil && !ran
}

// newNetwork starts a process in a network namespace of its own, and if user is set in a
// user namespace in which it is root.
func newNetwork(user bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if user {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return a
}

// namespace is a network namespace that a process holds which does nothing else.
type namespace struct {
	pid  int
	file *os.File
}

func holdNamespace(t testing.TB) *namespace {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{labVariable + "=holder"}
	cmd.SysProcAttr = newNetwork(false)
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	file, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return &namespace{cmd.Process.Pid, file}
}

// do calls f on a thread in the namespace. What f opens or starts, without goroutines,
// belongs there. The namespace nil is the router's.
func (n *namespace) do(f func()) {
	if n == nil {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err == nil {
		defer own.Close()
		err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
	}()
	f()
}

// run runs a tool in the namespace, with the given input.
func (n *namespace) run(t testing.TB, input, tool string, args ...string) {
	t.Helper()
	cmd := exec.Command(lookTool(t, tool), args...)
	cmd.Stdin = strings.NewReader(input)
	var out []byte
	var err error
	n.do(func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", tool, strings.Join(args, " "), err, out, input)
	}
}

// sysctl writes to a file below /proc/sys/net.
func (n *namespace) sysctl(t *testing.T, name, value string) {
	t.Helper()
	n.do(func() {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	})
}

// dial connects from the namespace. local is the address to connect from, "" for any.
func (n *namespace) dial(t testing.TB, local, addr string) *peer {
	t.Helper()
	nc, err := n.tryDial(local, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return newPeer(t, nc)
}

func (n *namespace) tryDial(local, addr string) (nc net.Conn, err error) {
	d := net.Dialer{Timeout: patience}
	if local != "" {
		if d.LocalAddr, err = net.ResolveTCPAddr("tcp", local); err != nil {
			return nil, err
		}
	}
	n.do(func() { nc, err = d.Dial("tcp", addr) })
	return nc, err
}
