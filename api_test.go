package mitm_test

import (
	"bytes"
	"flag"
	"go/ast"
	"go/build"
	"go/doc"
	"go/format"
	"go/parser"
	"go/printer"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite api.txt")

// TestAPI compares the exported declarations with api.txt, so that a review sees every change of them.
func TestAPI(t *testing.T) {
	got := apiListing(t)
	if *update {
		if err := os.WriteFile("api.txt", []byte(got), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("api.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := lineDiff(strings.ReplaceAll(string(want), "\r\n", "\n"), got); diff != "" {
		t.Errorf("the API differs from api.txt (go test -run TestAPI -update rewrites it):\n%s", diff)
	}
}

// apiListing prints the exported declarations of the package in "." as linux/amd64 sees it.
func apiListing(t *testing.T) string {
	pkg := apiPackage(t)
	var b bytes.Buffer
	b.WriteString("package " + pkg.Name + "\n\n")
	printValues(&b, pkg.Consts)
	printValues(&b, pkg.Vars)
	printFuncs(&b, pkg.Funcs)
	for _, typ := range pkg.Types {
		printDecl(&b, typ.Decl)
		printValues(&b, typ.Consts)
		printValues(&b, typ.Vars)
		printFuncs(&b, typ.Funcs)
		printFuncs(&b, typ.Methods)
	}
	src, err := format.Source(b.Bytes())
	if err != nil {
		t.Fatalf("%v in:\n%s", err, b.Bytes())
	}
	return string(src)
}

func apiPackage(t *testing.T) *doc.Package {
	host := build.Default
	host.GOOS, host.GOARCH, host.CgoEnabled, host.BuildTags = "linux", "amd64", false, nil
	fset := token.NewFileSet()
	var files []*ast.File
	names, _ := filepath.Glob("*.go")
	for _, name := range names {
		match, err := host.MatchFile(".", name)
		if err != nil {
			t.Fatal(err)
		}
		if !match || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	pkg, err := doc.NewFromFiles(fset, files, "example.com/mitm")
	if err != nil {
		t.Fatal(err)
	}
	return pkg
}

func printValues(b *bytes.Buffer, values []*doc.Value) {
	for _, v := range values {
		printDecl(b, v.Decl)
	}
}

func printFuncs(b *bytes.Buffer, funcs []*doc.Func) {
	for _, f := range funcs {
		printDecl(b, f.Decl)
	}
}

// printDecl leaves out the blank lines that removed comments leave behind;
// their number and the alignment must not depend on comments.
func printDecl(b *bytes.Buffer, decl ast.Decl) {
	ast.Inspect(decl, signatureOnly)
	var text bytes.Buffer
	if err := printer.Fprint(&text, token.NewFileSet(), decl); err != nil {
		panic(err)
	}
	for line := range strings.Lines(text.String() + "\n") {
		if strings.TrimSpace(line) != "" {
			b.WriteString(line)
		}
	}
	b.WriteString("\n")
}

func signatureOnly(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GenDecl:
		n.Doc = nil
	case *ast.FuncDecl:
		n.Doc, n.Body = nil, nil
	case *ast.TypeSpec:
		n.Doc, n.Comment = nil, nil
	case *ast.ValueSpec:
		n.Doc, n.Comment = nil, nil
	case *ast.Field:
		n.Doc, n.Comment = nil, nil
	case *ast.CompositeLit:
		n.Elts = nil
	case *ast.FuncLit:
		n.Body.List = nil
	}
	return true
}

// lineDiff returns the lines that differ, those of a with "-" and those of b with "+".
func lineDiff(a, b string) string {
	x, y := strings.SplitAfter(a, "\n"), strings.SplitAfter(b, "\n")
	common := make([][]int, len(x)+1) // common[i][j]: length of the longest common subsequence of x[i:] and y[j:]
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var diff strings.Builder
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && common[i+1][j] >= common[i][j+1]:
			diff.WriteString("-" + x[i])
			i++
		default:
			diff.WriteString("+" + y[j])
			j++
		}
	}
	return diff.String()
}
