package mitm_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"example.com/mitm"
)

// processVariable makes the test binary a process that runs a proxy and nothing else, so
// that what it needs can be told from what the tests need.
const processVariable = "MITM_TEST_PROXY_PROCESS"

// processProxies are what such processes run, by the value of the variable.
var processProxies = map[string]func() *mitm.Proxy{
	"plain":      func() *mitm.Proxy { return &mitm.Proxy{} },
	"tunnelling": tunnellingProxy,
	"opening":    openingProxy,
}

func init() {
	if os.Getenv(processVariable) != "" {
		runProxyProcess()
		os.Exit(0)
	}
}

// processStats is what a proxy process says about itself.
type processStats struct {
	Sockets, Pipes int
	Heap, Resident int64 // bytes; Heap includes stacks
	Copied         int64 // bytes that system calls moved between kernel and process
}

// runProxyProcess answers every line on its standard input with its statistics.
func runProxyProcess() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	p := processProxies[os.Getenv(processVariable)]()
	go p.Serve(l)
	fmt.Println(l.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		json.NewEncoder(os.Stdout).Encode(ownStats())
	}
	p.Close()
}

func ownStats() processStats {
	runtime.GC()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return processStats{
		Sockets:  len(descriptorsOf("socket:")),
		Pipes:    len(descriptorsOf("pipe:")),
		Heap:     int64(mem.HeapAlloc + mem.StackInuse),
		Resident: 1024 * procNumber("/proc/self/status", "VmRSS:"),
		Copied:   procNumber("/proc/self/io", "rchar:") + procNumber("/proc/self/io", "wchar:"),
	}
}

// procNumber returns the number behind name in a file of /proc.
func procNumber(file, name string) (n int64) {
	b, _ := os.ReadFile(file)
	if _, rest, ok := strings.Cut(string(b), name); ok {
		fmt.Sscan(rest, &n)
	}
	return n
}

// proxyProcess is a process that was started by startProcess.
type proxyProcess struct {
	t    testing.TB
	addr string
	in   io.WriteCloser
	out  *bufio.Reader
}

func startProcess(t testing.TB) *proxyProcess {
	t.Helper()
	return startProcessOf(t, "plain")
}

func startProcessOf(t testing.TB, kind string) *proxyProcess {
	t.Helper()
	skipUnless(t, procNumber("/proc/self/io", "rchar:") > 0, "needs /proc/self/io")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processVariable+"="+kind)
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("proxy process: %v", err)
		}
	})
	p := &proxyProcess{t: t, in: in, out: bufio.NewReader(out)}
	p.addr = strings.TrimSpace(p.line())
	return p
}

func (p *proxyProcess) line() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("proxy process: %v", err)
	}
	return line
}

func (p *proxyProcess) stats() (s processStats) {
	p.t.Helper()
	io.WriteString(p.in, "\n")
	if err := json.Unmarshal([]byte(p.line()), &s); err != nil {
		p.t.Fatal(err)
	}
	return s
}
