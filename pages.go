package mitm

import (
	"html/template"
	"net/http"
	"strconv"
)

// certificatePages lets clients download the certificate of ca.
func certificatePages(ca *CA) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		certificatePage.Execute(w, ca != nil)
	})
	if ca == nil {
		return mux
	}
	serve := func(name, kind string, content []byte) {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Content-Disposition", `attachment; filename="mitm-ca.`+name[len("cert."):]+`"`)
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			w.Write(content)
		})
	}
	serve("cert.pem", "application/x-pem-file", ca.PEM())
	serve("cert.der", "application/x-x509-ca-cert", ca.Certificate().Raw)
	return mux
}

var certificatePage = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>mitm</title>
<h1>This proxy opens TLS</h1>
{{if .}}<p>Its certificate: <a href="/cert.pem">PEM</a>, <a href="/cert.der">DER</a>. Whoever has its key can read and
change what a program that trusts it sends and gets, so trust it for tests only, and for as long as they take:
<ul>
<li>curl: <code>--cacert cert.pem</code>
<li>Go: <code>tls.Config.RootCAs</code>; on Linux <code>SSL_CERT_FILE=cert.pem</code>
<li>Node: <code>NODE_EXTRA_CA_CERTS=cert.pem</code>
<li>Python: <code>SSL_CERT_FILE=cert.pem</code>, requests: <code>REQUESTS_CA_BUNDLE=cert.pem</code>
<li>Java: <code>keytool -importcert -file cert.pem -keystore test.p12</code>, <code>-Djavax.net.ssl.trustStore=test.p12</code>
<li>Firefox: Settings, Privacy and Security, View Certificates, Authorities, Import, in a profile of its own
<li>Chromium: Settings, Privacy and security, Security, Manage certificates, in a profile of its own
<li>Debian: <code>cp cert.pem /usr/local/share/ca-certificates/mitm-ca.crt &amp;&amp; update-ca-certificates</code>
<li>macOS: open the file, add it to the login keychain, set it to Always Trust for SSL
<li>Windows: <code>certutil -user -addstore Root cert.der</code>
</ul>{{else}}<p>It has no certificate: TLS passes through it unopened.{{end}}
`))
