package mitm_test

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"example.com/mitm"
)

// Names of the files in the directory of OpenCA.
const (
	caFile    = "mitm-ca.pem"
	caKeyFile = "mitm-ca-key.pem"
)

func openCA(t *testing.T, dir string) *mitm.CA {
	t.Helper()
	ca, err := mitm.OpenCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestOpenCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	created := openCA(t, dir)
	if reopened := openCA(t, dir); !reopened.Certificate().Equal(created.Certificate()) {
		t.Error("another authority is there when it is opened again")
	}
	wantMode(t, dir, os.ModeDir|0o700)
	wantMode(t, filepath.Join(dir, caKeyFile), 0o600)
	wantMode(t, filepath.Join(dir, caFile), 0o644)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v: %v", entries, err)
	}
	file, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil || !bytes.Equal(file, created.PEM()) {
		t.Errorf("the certificate file is %v\n%s", err, file)
	}
	leaf, err := created.Leaf("example.com", "", nil)
	if err != nil || leaf.Leaf.CheckSignatureFrom(created.Certificate()) != nil {
		t.Errorf("leaf: %v", err)
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != want && runtime.GOOS != "windows" {
		t.Errorf("%s has mode %v, want %v", path, got, want)
	}
}

// However many create an authority at once, all get the same.
func TestOpenCARace(t *testing.T) {
	const racers = 16
	for range 20 {
		dir := filepath.Join(t.TempDir(), "ca")
		var cas [racers]*mitm.CA
		var errs [racers]error
		ready := make(chan bool)
		var all sync.WaitGroup
		for i := range racers {
			all.Go(func() {
				<-ready
				cas[i], errs[i] = mitm.OpenCA(dir)
			})
		}
		close(ready)
		all.Wait()
		for i := range racers {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			if !cas[i].Certificate().Equal(cas[0].Certificate()) {
				t.Fatal("they have different authorities")
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
			t.Fatalf("left in the directory: %v, %v", entries, err)
		}
	}
}

// A process that ended between the two files left a key that the next one completes.
func TestOpenCACompletes(t *testing.T) {
	dir := t.TempDir()
	first := openCA(t, dir)
	if err := os.Remove(filepath.Join(dir, caFile)); err != nil {
		t.Fatal(err)
	}
	if second := openCA(t, dir); !second.Certificate().Equal(first.Certificate()) {
		t.Error("a new authority was made")
	}
	file, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil || !bytes.Equal(file, first.PEM()) {
		t.Errorf("the certificate file is %v\n%s", err, file)
	}
}

// The files may be the user's own, with nothing in them but what their names say.
func TestOpenCAOwnFiles(t *testing.T) {
	dir, root := t.TempDir(), p256Root(t)
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(caKeyFile, keyPEM(t, "EC PRIVATE KEY", root.key))
	wantOpenError(t, dir, caFile)
	write(caFile, pemOf(root.cert))
	if ca := openCA(t, dir); !ca.Certificate().Equal(root.cert) {
		t.Errorf("opened %v", ca.Certificate().Subject)
	}
	write(caFile, pemOf(p256Root(t).cert))
	wantOpenError(t, dir, "private key does not match public key")
	write(caFile, nil)
	wantOpenError(t, dir, "failed to find any PEM data in certificate input")
}

func wantOpenError(t *testing.T, dir, want string) {
	t.Helper()
	ca, err := mitm.OpenCA(dir)
	if ca != nil || err == nil || !strings.HasPrefix(err.Error(), "mitm: open CA in "+dir+": ") || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A certificate that clients may trust already is not replaced because its key is gone.
func TestOpenCAKeyGone(t *testing.T) {
	dir := t.TempDir()
	before := openCA(t, dir).PEM()
	if err := os.Remove(filepath.Join(dir, caKeyFile)); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, dir, caKeyFile)
	if after, err := os.ReadFile(filepath.Join(dir, caFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the certificate changed: %v", err)
	}
}

func TestOpenCAReadableKey(t *testing.T) {
	skipUnless(t, runtime.GOOS != "windows", "needs file modes")
	dir := t.TempDir()
	openCA(t, dir)
	key := filepath.Join(dir, caKeyFile)
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		wantOpenError(t, dir, "chmod 600 "+key)
	}
	if err := os.Chmod(key, 0o400); err != nil {
		t.Fatal(err)
	}
	openCA(t, dir)
}

func TestOpenCAUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, filepath.Join(file, "below"), file)
}
