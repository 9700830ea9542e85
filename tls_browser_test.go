package mitm_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// pages is a site whose page says of its parts whether they arrived, and how.
func pages() http.Handler {
	mux := http.NewServeMux()
	for path, file := range map[string]struct{ kind, content string }{
		"/{$}": {"text/html", `<!DOCTYPE html><html><head><link rel="icon" href="data:,"><link rel="stylesheet" href="/style.css"></head>
			<body><p id="out"></p><img id="img" src="/image.svg"><script src="/script.js"></script></body></html>`},
		"/style.css": {"text/css", `p { color: rgb(1, 2, 3) }`},
		"/image.svg": {"image/svg+xml", `<svg xmlns="http://www.w3.org/2000/svg" width="7" height="7"/>`},
		"/script.js": {"text/javascript", `onload = () => {
			const req = new XMLHttpRequest()
			req.open('POST', '/data', false)
			req.send('abc')
			const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
			out.textContent = [req.responseText, getComputedStyle(out).color, img.naturalWidth,
				entries.length, ...new Set(entries.map(e => e.nextHopProtocol))].join('|')
		}`},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", file.kind)
			io.WriteString(w, file.content)
		})
	}
	mux.HandleFunc("POST /data", func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	return mux
}

// browser shows the page and prints what has become of it. Errors of certificates are
// forgiven where a chain has the key of one that is trusted.
func (l *secureLab) browser(t *testing.T, args []string, trusted ...*x509.Certificate) *exec.Cmd {
	var keys []string
	for _, cert := range trusted {
		sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
		keys = append(keys, base64.StdEncoding.EncodeToString(sum[:]))
	}
	return l.command(t, []string{"HOME=" + t.TempDir()}, "chromium", append(args, "--headless", "--no-sandbox", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--user-data-dir="+t.TempDir(), "--ignore-certificate-errors-spki-list="+strings.Join(keys, ","),
		"--dump-dom", "https://site.test/")...)
}

func TestChromium(t *testing.T) {
	lookTool(t, "chromium")
	l := newSecureLab(t, nil, pages())
	overTLS := "https://" + l.serveTLS("h2", "http/1.1") // CONNECT by HTTP/2
	for name, v := range map[string]struct{ proxy, arg, protocol, http, tls string }{
		"HTTP/2":      {"http://" + l.proxy, "--enable-http2", "h2", "HTTP/2.0", "TLS 1.3"},
		"HTTP/1.1":    {"http://" + l.proxy, "--disable-http2", "http/1.1", "HTTP/1.1", "TLS 1.3"},
		"TLS 1.2":     {"socks5://" + l.proxy, "--ssl-version-max=tls1.2", "h2", "HTTP/2.0", "TLS 1.2"},
		"TLS to both": {overTLS, "--enable-http2", "h2", "HTTP/2.0", "TLS 1.3"},
	} {
		t.Run(name, func(t *testing.T) {
			got := output(t, l.browser(t, []string{"--proxy-server=" + v.proxy, v.arg}, l.p.CA.Certificate(), l.root.cert))
			if say := "abc|rgb(1, 2, 3)|7|5|" + v.protocol; !strings.Contains(got, say) || !strings.Contains(got, "edited\n") {
				t.Errorf("no %q, or nothing edited, in %s", say, got)
			}
			var seen []string
			for _, request := range []string{"GET /", "GET /style.css", "GET /image.svg", "GET /script.js", "POST /data"} {
				method, path, _ := strings.Cut(request, " ")
				seen = append(seen, fmt.Sprintf("%s https://site.test%s %s %s", method, path, v.http, v.tls))
			}
			l.saw(t, seen...)
		})
	}
	for len(l.chosen) > 0 {
		want(t, <-l.chosen, "h2")
	}
	t.Run("not trusted", func(t *testing.T) {
		if got := output(t, l.browser(t, []string{"--proxy-server=http://" + l.proxy}, l.root.cert)); strings.Contains(got, "edited") {
			t.Errorf("the page is shown: %s", got)
		}
		l.refused(t)
	})
}
