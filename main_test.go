package mitm_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"
)

// leakGrace is how long goroutines and descriptors may take to end after the last test.
const leakGrace = 5 * time.Second

func TestMain(m *testing.M) {
	goroutines, descriptors := goroutineStacks(), openDescriptors()
	code := m.Run()
	if code == 0 && (goroutinesLeaked(goroutines) || descriptorsLeaked(descriptors)) {
		code = 1
	}
	os.Exit(code)
}

func goroutinesLeaked(before map[string]string) bool {
	return leaked("goroutines", func() []string { return added(before, goroutineStacks()) })
}

// descriptorsLeaked looks at sockets with garbage collection off, which would close lost ones
// behind our back. The pipes of package net's splice pool go only by garbage collection.
func descriptorsLeaked(before map[string]string) bool {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	return leaked("sockets", func() []string {
		return added(before, descriptorsOf("socket:"))
	}) || leaked("pipes", func() []string {
		runtime.GC()
		runtime.GC()
		return added(before, descriptorsOf("pipe:"))
	})
}

// leaked polls list until it is empty; if it never is, leaked prints some of it.
func leaked(what string, list func() []string) bool {
	const most = 20
	left := list()
	for end := time.Now().Add(leakGrace); len(left) > 0; left = list() {
		if time.Now().After(end) {
			fmt.Fprintf(os.Stderr, "%d leaked %s:\n\n%s\n", len(left), what, strings.Join(left[:min(most, len(left))], "\n\n"))
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// added returns the values whose keys are only in after.
func added(before, after map[string]string) (values []string) {
	for key, value := range after {
		if _, ok := before[key]; !ok {
			values = append(values, value)
		}
	}
	return values
}

// goroutineStacks returns the stacks by goroutine number, without those of testing and the runtime.
func goroutineStacks() map[string]string {
	buf := make([]byte, 1<<20)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*n)
		n = runtime.Stack(buf, true)
	}
	stacks := map[string]string{}
	for stack := range strings.SplitSeq(string(buf[:n]), "\n\n") {
		if number, _, ok := strings.Cut(stack, " ["); ok && !ignoredStack(stack) {
			stacks[number] = stack
		}
	}
	return stacks
}

func ignoredStack(stack string) bool {
	for _, own := range []string{"mitm_test.TestMain(", "testing.(*M)", "created by testing.", "created by runtime.", "os/signal."} {
		if strings.Contains(stack, own) {
			return true
		}
	}
	return false
}

// openDescriptors returns what /proc/self/fd links to; it is empty where that does not exist.
func openDescriptors() map[string]string {
	links := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		if to, err := os.Readlink(name); err == nil {
			links[to] = name + " -> " + to
		}
	}
	return links
}

func descriptorsOf(kind string) map[string]string {
	links := openDescriptors()
	for to := range links {
		if !strings.HasPrefix(to, kind) {
			delete(links, to)
		}
	}
	return links
}

// skipUnless skips the test unless ok. Where everything has to be there (MITM_TEST_STRICT=1) it fails instead.
func skipUnless(t testing.TB, ok bool, reason string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("MITM_TEST_STRICT") == "1" {
		t.Fatal("would skip: " + reason)
	}
	t.Skip(reason)
}

// lookTool returns the path of an external program that the test needs.
func lookTool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	skipUnless(t, err == nil, "needs "+name)
	return path
}
