package mitm_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

func keyFile(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// renegotiatingOrigin is a server that wants a certificate below /private only; crypto/tls has no
// such server. It returns the address.
func renegotiatingOrigin(t *testing.T, cert tls.Certificate) string {
	t.Helper()
	certFile := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(certFile, []byte(pemOf(cert.Leaf)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(lookTool(t, "node"), "testdata/clients/renegotiate.js", certFile, keyFile(t, cert.PrivateKey))
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strings.TrimSpace(port)
}

// newRenegotiatingSite has a proxy with a certificate for the origin.
func newRenegotiatingSite(t *testing.T, e entry, addr string, f *farm, support tls.RenegotiationSupport) *openedSite {
	t.Helper()
	s := newRawSite(t, e, addr)
	s.farm.root, s.farm.other = f.root, f.other
	s.p.OriginTLS = &tls.Config{RootCAs: f.root.pool(), Renegotiation: support, Certificates: []tls.Certificate{f.visitor()}}
	s.p.TLSTimeout, s.p.ResponseTimeout = patience, patience
	return s
}

// An origin may ask for a certificate by a renegotiation, if the configuration says so.
func TestR64_Renegotiation(t *testing.T) {
	f := newFarm(t)
	addr := renegotiatingOrigin(t, f.root.leaf("site.test", newKey(t), nil))
	for name, hooks := range map[string][]mitm.Hook{"plain": nil, "hooked": {noChange()}} {
		t.Run(name, func(t *testing.T) {
			eachEntry(t, func(t *testing.T, e entry) {
				s := newRenegotiatingSite(t, e, addr, f, tls.RenegotiateFreelyAsClient)
				s.p.Hooks = hooks
				proxy := start(t, s.p)
				c := newPeer(t, s.mustSpeak(t, proxy, s.trusting("http/1.1")))
				for _, tt := range []struct{ path, answer string }{
					{"/public", "nobody 0"}, {"/private", "visitor 0"}, {"/public", "visitor 0"}, {"/private", "visitor 0"},
				} {
					c.send("GET " + tt.path + " HTTP/1.1\r\nHost: site.test\r\n\r\n")
					_, body := c.response("GET")
					want(t, body, tt.answer)
				}
				c.Close()
				stream := newH2Peer(t, s.mustSpeak(t, proxy, s.trusting("h2")), true).get(":authority", "site.test", ":path", "/private")
				want(t, stream.outcome()+stream.body.String(), "200visitor 0")
			})
		})
	}
}

// An upload has passed before the renegotiation.
func TestR64_RenegotiationAfterUpload(t *testing.T) {
	f := newFarm(t)
	addr := renegotiatingOrigin(t, f.root.leaf("site.test", newKey(t), nil))
	for name, hooks := range map[string][]mitm.Hook{"plain": nil, "hooked": {noChange()}} {
		t.Run(name, func(t *testing.T) {
			s := newRenegotiatingSite(t, entries[0], addr, f, tls.RenegotiateOnceAsClient)
			s.p.Hooks = hooks
			c := newPeer(t, s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1")))
			c.send("POST /private HTTP/1.1\r\nHost: site.test\r\nContent-Length: 307200\r\n\r\n" + strings.Repeat("p", 300<<10))
			_, body := c.response("POST")
			want(t, body, "visitor 307200")
		})
	}
}

// StartTLS may renegotiate without the proxy's knowledge.
func TestR64_RenegotiationOfStartTLS(t *testing.T) {
	f := newFarm(t)
	addr := renegotiatingOrigin(t, f.root.leaf("site.test", newKey(t), nil))
	s := newRenegotiatingSite(t, entries[0], addr, f, tls.RenegotiateNever)
	s.p.StartTLS = func(ctx context.Context, _ *mitm.Conn, nc net.Conn, config *tls.Config) (net.Conn, string, error) {
		config.Renegotiation = tls.RenegotiateFreelyAsClient
		tc := tls.Client(nc, config)
		err := tc.HandshakeContext(ctx)
		return tc, tc.ConnectionState().NegotiatedProtocol, err
	}
	c := s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1"))
	want(t, askTLS(t, c, "/private"), "visitor 0")
}

// Without Renegotiation the client learns why there is no response, and a second renegotiation ends
// if only one is allowed.
func TestR64_RenegotiationRefused(t *testing.T) {
	f := newFarm(t)
	addr := renegotiatingOrigin(t, f.root.leaf("site.test", newKey(t), nil))
	for support, statuses := range map[tls.RenegotiationSupport]string{
		tls.RenegotiateNever:        "502",
		tls.RenegotiateOnceAsClient: "200 502",
	} {
		eachEntry(t, func(t *testing.T, e entry) {
			s := newRenegotiatingSite(t, e, addr, f, support)
			done, flows := doneHook()
			s.p.Hooks = []mitm.Hook{done}
			c := newPeer(t, s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1")))
			for status := range strings.FieldsSeq(statuses) {
				c.send("POST /private/now HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0\r\n\r\n")
				res, _ := c.response("POST")
				want(t, res.Status[:3], status)
				if f := nextFlow(t, flows); status == "502" && (f.Err == nil || !strings.Contains(f.Err.Error(), "no renegotiation")) {
					t.Errorf("flow ended with %v", f.Err)
				}
			}
		})
	}
}

// stallingRenegotiation passes everything between an origin and nc on until a handshake record from
// the origin comes in the middle of the connection's life; what comes after is swallowed.
func stallingRenegotiation(t *testing.T, addr string, end func(nc *net.TCPConn)) string {
	return origin(t, func(c *peer) {
		far, err := net.Dial("tcp", addr)
		if err != nil {
			t.Error(err)
			return
		}
		defer far.Close()
		go io.Copy(far, c.Conn)
		r := bufio.NewReader(far)
		for encrypted := 0; ; {
			head, err := r.Peek(5)
			if err != nil {
				return
			}
			record := make([]byte, 5+int(head[3])<<8+int(head[4]))
			io.ReadFull(r, record)
			c.Conn.Write(record)
			if record[0] == 20 || encrypted > 0 && record[0] == 22 { // ChangeCipherSpec, Finished, HelloRequest
				encrypted++
			}
			if encrypted == 3 {
				end(c.Conn.(*net.TCPConn))
				return
			}
		}
	})
}

// A renegotiation that is broken off ends the exchange, and what takes no end a timeout does.
func TestR64_RenegotiationStalls(t *testing.T) {
	f := newFarm(t)
	addr := renegotiatingOrigin(t, f.root.leaf("site.test", newKey(t), nil))
	for name, tt := range map[string]struct {
		end    func(nc *net.TCPConn)
		status string
	}{
		"end":   {func(nc *net.TCPConn) { nc.CloseWrite(); io.Copy(io.Discard, nc) }, "502"},
		"reset": {func(nc *net.TCPConn) { nc.SetLinger(0) }, "502"},
		"stall": {func(nc *net.TCPConn) { io.Copy(io.Discard, nc) }, "504"},
		"bytes": {func(nc *net.TCPConn) { io.WriteString(nc, "\x16\x03\x03\x00\x01x"); io.Copy(io.Discard, nc) }, "502"},
	} {
		for method, length := range map[string]string{"GET": "0", "POST": "100000"} {
			t.Run(name+" "+method, func(t *testing.T) {
				s := newRenegotiatingSite(t, entries[0], stallingRenegotiation(t, addr, tt.end), f, tls.RenegotiateFreelyAsClient)
				if tt.status == "504" {
					s.p.ResponseTimeout = time.Second / 4
				}
				c := newPeer(t, s.mustSpeak(t, start(t, s.p), s.trusting("http/1.1")))
				c.send(method + " /private/now HTTP/1.1\r\nHost: site.test\r\nContent-Length: " + length + "\r\n\r\n") // and no content
				res, _ := c.response(method)
				want(t, res.Status[:3], tt.status)
			})
		}
	}
}
