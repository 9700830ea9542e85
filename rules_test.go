package mitm_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRuleTable keeps the table of rules in CONTRIBUTING.md and the tests together.
func TestRuleTable(t *testing.T) {
	contributing, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	name := regexp.MustCompile(`\bTestR\d\d_\w+`)
	listed := map[string]bool{}
	for _, test := range name.FindAll(contributing, -1) {
		listed[string(test)] = true
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^func (TestR\d+_\w+)\(`)
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range declared.FindAllSubmatch(source, -1) {
			if !listed[string(test[1])] {
				t.Errorf("CONTRIBUTING.md does not list %s of %s", test[1], file)
			}
			delete(listed, string(test[1]))
		}
	}
	for test := range listed {
		t.Errorf("CONTRIBUTING.md lists %s, which does not exist", test)
	}
}

// doc.go, the map of the source, names each file once.
func TestMap(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]int{"doc.go": 1}
	for _, name := range regexp.MustCompile(`\b\w+\.go\b`).FindAll(doc, -1) {
		named[string(name)]++
	}
	for _, file := range files {
		if n := named[file]; n != 1 && !strings.HasSuffix(file, "_test.go") {
			t.Errorf("doc.go names %s %d times", file, n)
		}
		delete(named, file)
	}
	for name := range named {
		t.Errorf("doc.go names %s, which does not exist", name)
	}
}
