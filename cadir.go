package mitm

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Names of the files of OpenCA.
const (
	caFile    = "mitm-ca.pem"
	caKeyFile = "mitm-ca-key.pem"
)

// OpenCA loads the authority that is kept in a directory, or creates one there as NewCA
// does.
//
// The certificate is in the file mitm-ca.pem, to be handed to clients, and may be read by
// anyone who may enter the directory. The private key is in mitm-ca-key.pem. Nobody but
// its owner may have access to that, or OpenCA returns an error (except on Windows). A new
// directory is accessible to its owner only. To replace the authority, delete both files.
//
// If several processes create an authority in one directory at the same time, all of them
// get the same.
func OpenCA(dir string) (*CA, error) {
	ca, err := openCA(dir)
	if err != nil {
		return nil, fmt.Errorf("mitm: open CA in %s: %w", dir, err)
	}
	return ca, nil
}

func openCA(dir string) (*CA, error) {
	certPEM, keyPEM, err := readCA(dir)
	if certPEM == nil && keyPEM == nil && err == nil {
		if err := createCA(dir); err != nil {
			return nil, err
		}
		certPEM, keyPEM, err = readCA(dir) // perhaps another process was faster
	}
	if err != nil {
		return nil, err
	}
	return loadCA(certPEM, keyPEM)
}

// readCA returns what is in the files; nil if neither exists.
//
// They come into existence as one: the key file is created with the certificate in it, and
// the certificate file is a copy of that. So whoever finds only the key file makes the
// copy. As the key comes first, it is looked for last.
func readCA(dir string) (certPEM, keyPEM []byte, err error) {
	certPEM, certErr := os.ReadFile(filepath.Join(dir, caFile))
	if certErr != nil && !errors.Is(certErr, fs.ErrNotExist) {
		return nil, nil, certErr
	}
	keyPEM, keyErr := readKey(filepath.Join(dir, caKeyFile))
	switch {
	case errors.Is(keyErr, fs.ErrNotExist) && certErr != nil:
		return nil, nil, nil
	case keyErr != nil:
		return nil, nil, keyErr
	case certErr == nil:
		return certPEM, keyPEM, nil
	}
	if certPEM = certificatesIn(keyPEM); certPEM == nil {
		return nil, nil, certErr
	}
	return certPEM, keyPEM, publish(dir, caFile, certPEM, 0o644)
}

// readKey reads a file that only its owner has access to.
func readKey(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("others have access to the private key (mode %#o): run chmod 600 %s", mode, name)
	}
	return io.ReadAll(f)
}

// certificatesIn returns the certificates in a file of PEM.
func certificatesIn(file []byte) []byte {
	var certs []byte
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(block)...)
		}
	}
	return certs
}

// createCA creates the key file, unless there is one.
func createCA(dir string) error {
	ca, err := NewCA("")
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return publish(dir, caKeyFile, append(keyPEM, ca.PEM()...), 0o600)
}

// publish creates a file that is complete as soon as it can be seen. If there is one of
// that name, it stays.
func publish(dir, name string, data []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(dir, "."+name+"-*") // nobody else may read it
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), filepath.Join(dir, name)); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
