package mitm_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// site is an origin server for real clients.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, req *http.Request) {
		fmt.Fprintf(w, "%s %s\n", req.Method, req.Host)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, req *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, req.Body)
		fmt.Fprintf(w, "%d %x %v %v\n", n, sum.Sum(nil), req.TransferEncoding, err)
	})
	mux.HandleFunc("/range", func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "", time.Time{}, strings.NewReader("0123456789"))
	})
	mux.HandleFunc("/trailer", func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		w.Header().Set("Trailer", "X-Back")
		io.WriteString(w, "content")
		w.Header().Set("X-Back", req.Trailer.Get("X-There"))
	})
	return mux
}

// run runs a client to its end and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, lookTool(t, name), args...)
	cmd.Env = append(os.Environ(), "http_proxy=", "https_proxy=", "no_proxy=", "HTTP_PROXY=", "HTTPS_PROXY=", "NO_PROXY=", "ALL_PROXY=", "all_proxy=")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s\n%s", name, args, err, out, stderr.Bytes())
	}
	return string(out)
}

// want fails the test unless got is want.
func want(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// upload is a file of 2 MiB and what /sum says of it.
func upload(t *testing.T) (file, sum string) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
	file = filepath.Join(t.TempDir(), "upload")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	return file, fmt.Sprintf("%d %s", len(content), hex.EncodeToString(digest[:]))
}

func TestCurl(t *testing.T) {
	lookTool(t, "curl")
	server, other := httptest.NewServer(site()), httptest.NewServer(site())
	defer server.Close()
	defer other.Close()
	host, otherHost := server.Listener.Addr().String(), other.Listener.Addr().String()
	file, sum := upload(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, tt := range []struct {
			name string
			args []string
			want string
		}{
			{"GET", []string{server.URL + "/hello"}, "GET " + host + "\n"},
			{"HTTP/1.0", []string{"--http1.0", server.URL + "/hello"}, "GET " + host + "\n"},
			{"POST", []string{"--data-binary", "@" + file, "-H", "Expect: 100-continue", server.URL + "/sum"}, sum + " [] <nil>\n"},
			{"PUT", []string{"--upload-file", file, server.URL + "/sum"}, sum + " [] <nil>\n"},
			{"two hosts", []string{server.URL + "/hello", other.URL + "/hello", server.URL + "/hello", "-w", "%{num_connects} "},
				"GET " + host + "\n1 GET " + otherHost + "\n0 GET " + host + "\n0 "},
			{"tunnel", []string{"--proxytunnel", server.URL + "/hello", server.URL + "/hello"}, strings.Repeat("GET "+host+"\n", 2)},
			{"HEAD", []string{"--head", "-o", os.DevNull, "-w", "%{http_code} %header{content-length}", server.URL + "/range"}, "200 10"},
			{"range", []string{"--range", "2-5", "-w", " %{http_code}", server.URL + "/range"}, "2345 206"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				want(t, run(t, "curl", append([]string{"-q", "-sS", "--max-time", "20", "--proxy", "http://" + proxy}, tt.args...)...), tt.want)
			})
		}
		t.Run("chunked", func(t *testing.T) {
			got := run(t, "sh", "-c", "cat "+file+" | curl -q -sS --max-time 20 --proxy http://"+proxy+" --upload-file - "+server.URL+"/sum")
			want(t, got, sum+" [chunked] <nil>\n")
		})
	})
}

func TestGoClient(t *testing.T) {
	plain, secure := httptest.NewServer(site()), httptest.NewTLSServer(site())
	defer plain.Close()
	defer secure.Close()
	file, sum := upload(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, server := range []*httptest.Server{plain, secure} {
			transport := server.Client().Transport.(*http.Transport).Clone()
			defer transport.CloseIdleConnections()
			transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
			transport.ExpectContinueTimeout = patience
			client := &http.Client{Transport: transport}
			for range 2 {
				goHello(t, client, server)
				goUpload(t, client, server, file, sum)
				goTrailer(t, client, server)
			}
		}
	})
}

func goHello(t *testing.T, client *http.Client, server *httptest.Server) {
	t.Helper()
	res, err := client.Get(server.URL + "/hello")
	want(t, content(t, res, err), "GET "+server.Listener.Addr().String()+"\n")
}

func goUpload(t *testing.T, client *http.Client, server *httptest.Server, file, sum string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest("POST", server.URL+"/sum", f)
	req.Header.Set("Expect", "100-continue")
	res, err := client.Do(req)
	want(t, content(t, res, err), sum+" [chunked] <nil>\n")
}

func goTrailer(t *testing.T, client *http.Client, server *httptest.Server) {
	t.Helper()
	req, _ := http.NewRequest("POST", server.URL+"/trailer", io.NopCloser(strings.NewReader("content")))
	req.Trailer = http.Header{"X-There": {"and back"}}
	res, err := client.Do(req)
	want(t, content(t, res, err), "content")
	want(t, res.Trailer.Get("X-Back"), "and back")
}

func content(t *testing.T, res *http.Response, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

const nodeProgram = `
const http = require('http'), tls = require('tls');
const [proxyHost, proxyPort] = process.argv[1].split(':');
const [url, secureAddr, ca] = process.argv.slice(2);
const proxy = {host: proxyHost, port: proxyPort};
const agent = new http.Agent({keepAlive: true});
const print = res => new Promise(done => {
	let s = ''; res.setEncoding('utf8');
	res.on('data', d => s += d).on('end', () => { process.stdout.write(res.statusCode + ' ' + s); done(); });
});
const absolute = (method, content) => new Promise((done, fail) => {
	const req = http.request({...proxy, agent, method, path: url + '/hello', headers: {Host: new URL(url).host}}, res => print(res).then(done));
	req.on('error', fail); req.end(content);
});
const tunnel = () => new Promise((done, fail) => {
	const req = http.request({...proxy, method: 'CONNECT', path: secureAddr});
	req.on('error', fail).on('connect', (res, socket) => {
		const secure = tls.connect({socket, host: '127.0.0.1', ca: require('fs').readFileSync(ca)}, () => {
			http.get({createConnection: () => secure, path: '/hello', headers: {Host: 'inside.test', Connection: 'close'}}, res => print(res).then(done)).on('error', fail);
		}).on('error', fail);
	}).end();
});
absolute('GET').then(() => absolute('POST', 'abc')).then(tunnel).then(() => agent.destroy());
`

const pythonProgram = `
import sys, ssl, http.client, urllib.request
proxy, url, secure, ca = sys.argv[1:]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({'http': 'http://' + proxy, 'https': 'http://' + proxy}),
	urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)))
for target, data in (url, None), (url, b'abc'), ('https://' + secure, None):
	with opener.open(target + '/hello', data, timeout=20) as res:
		print(res.status, res.read().decode(), end='')
host, port = proxy.split(':')
conn = http.client.HTTPSConnection(host, int(port), timeout=20, context=ssl.create_default_context(cafile=ca))
host, port = secure.split(':')
conn.set_tunnel(host, int(port))
for _ in range(2):
	conn.request('PUT', '/hello', body=(b'x' for _ in range(3)), headers={'Host': 'inside.test'}, encode_chunked=True)
	print(conn.getresponse().read().decode(), end='')
conn.close()
`

// servers starts a plain and a secure origin; ca is a file with the root of the latter.
func servers(t *testing.T) (plain, secure *httptest.Server, ca string) {
	plain, secure = httptest.NewServer(site()), httptest.NewTLSServer(site())
	t.Cleanup(plain.Close)
	t.Cleanup(secure.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pemOf(secure.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	return plain, secure, ca
}

func pemOf(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func TestNode(t *testing.T) {
	lookTool(t, "node")
	plain, secure, ca := servers(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		got := run(t, "node", "-e", nodeProgram, start(t, p), plain.URL, secure.Listener.Addr().String(), ca)
		host := plain.Listener.Addr().String()
		want(t, got, "200 GET "+host+"\n200 POST "+host+"\n200 GET inside.test\n")
	})
}

func TestPython(t *testing.T) {
	lookTool(t, "python3")
	plain, secure, ca := servers(t)
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		got := run(t, "python3", "-c", pythonProgram, start(t, p), plain.URL, secure.Listener.Addr().String(), ca)
		host := plain.Listener.Addr().String()
		want(t, got, "200 GET "+host+"\n200 POST "+host+"\n200 GET "+secure.Listener.Addr().String()+"\n"+strings.Repeat("PUT inside.test\n", 2))
	})
}
