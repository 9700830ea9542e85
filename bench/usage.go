package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what a process and its descendants have used, and what they hold.
type usage struct {
	CPU         time.Duration // user and system
	Memory      int64         // bytes, PSS
	Descriptors int
}

// cpuTime returns the processor time of a process and its descendants, to the nanosecond
// for those that live, to the tick for those that have ended.
func cpuTime(pid int) (sum time.Duration, err error) {
	for _, p := range family(pid) {
		var t unix.Timespec
		if err = unix.ClockGettime(processClock(p), &t); err != nil && p == pid {
			return 0, fmt.Errorf("clock of process %d: %w", pid, err)
		}
		sum += time.Duration(t.Nano()) + reaped(p)
	}
	return sum, nil
}

// processClock returns the clock that counts the processor time of another process
// (clock_getcpuclockid(3); CPUCLOCK_SCHED is 2).
func processClock(pid int) int32 { return int32(^pid<<3 | 2) }

// tick is what /proc counts in: USER_HZ is 100 on all architectures that Go runs on.
const tick = 10 * time.Millisecond

// reaped returns the processor time of children that have ended (proc_pid_stat(5), cutime and
// cstime).
func reaped(pid int) time.Duration {
	fields := stat(pid)
	if len(fields) < 15 {
		return 0
	}
	user, _ := strconv.ParseInt(fields[13], 10, 64)
	system, _ := strconv.ParseInt(fields[14], 10, 64)
	return time.Duration(user+system) * tick
}

// stat returns the fields of /proc/pid/stat from the third on, which follow the name.
func stat(pid int) []string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}

// family returns a process and all of its descendants.
func family(pid int) []int {
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", list[i]))
		for _, name := range tasks {
			b, _ := os.ReadFile(name)
			for f := range strings.FieldsSeq(string(b)) {
				if child, err := strconv.Atoi(f); err == nil {
					list = append(list, child)
				}
			}
		}
	}
	return list
}

// used returns all of it. It is slower than cpuTime alone.
func used(pid int) (u usage, err error) {
	if u.CPU, err = cpuTime(pid); err != nil {
		return u, err
	}
	for _, p := range family(pid) {
		names, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p))
		u.Descriptors += len(names)
		u.Memory += proportionalSize(p)
	}
	return u, nil
}

// proportionalSize returns the PSS of a process: its memory, with what it shares counted in
// part.
func proportionalSize(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
