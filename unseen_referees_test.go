package mitm_test

import (
	"bufio"
	"os/exec"
	"strings"
	"testing"

	"example.com/mitm"
)

// referees are servers that are more lenient than the proxy, each in its own way. They say at which port
// they listen, and answer whatever they take for a request with 299.
var referees = map[string][]string{
	"node": {"-e", `
		const server = require('http').createServer((req, res) => { res.statusCode = 299; res.end() });
		server.listen(0, '127.0.0.1', () => console.log(server.address().port));
		process.stdin.on('end', () => process.exit()).resume()`},
	"python3": {"-c", `
import http.server, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do(self):
        self.send_response(299)
        self.end_headers()
        if self.request_version == "HTTP/0.9":
            self.wfile.write(b"HTTP/0.9 299")
    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.do
        raise AttributeError(name)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()`},
}

// startReferee returns the address of a referee.
func startReferee(t *testing.T, tool string) string {
	t.Helper()
	cmd := exec.Command(lookTool(t, tool), referees[tool]...)
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := cmd.Start(); err != nil {
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

// firstLines are spellings of a request.
var firstLines = []string{
	"GET /x HTTP/1.1", "GET  /x HTTP/1.1", "GET /x  HTTP/1.1", "GET\t/x\tHTTP/1.1", "GET\v/x\fHTTP/1.1", "GET\x1c/x\x1dHTTP/1.1",
	"GET\x1e/x\x1fHTTP/1.1", "GET\x85/x\xa0HTTP/1.1", " GET /x HTTP/1.1", "\tGET /x HTTP/1.1", "\x1fGET /x HTTP/1.1", "\xa0GET /x HTTP/1.1",
	"\r\nGET /x HTTP/1.1", "\n\nGET /x HTTP/1.1", "\rGET /x HTTP/1.1", "GET /x", "GET x", "GET /x ", "GET /x HTTP/1.1 ", "GET /x HTTP/1.1\t",
	"GET x HTTP/1.1", "GET /x HTTP/1.0", "GET /x HTTP/0.9", "GET /x HTTP/1.9", "GET /x HTTP/2.0", "GET /x HTTP/1", "GET /x HTTP/01.01",
	"GET /x http/1.1", "get /x HTTP/1.1", "Get /x HTTP/1.1", "FOO /x HTTP/1.1", "foo-bar /x HTTP/1.1", "GET /\xff HTTP/1.1", "FOO /\xff HTTP/1.1",
	"GET /\x01 HTTP/1.1", "GET /\x00 HTTP/1.1", "GET /x y HTTP/1.1", "GET http://site.test/x HTTP/1.1", "GET ftp://h/x HTTP/1.1", "GET * HTTP/1.1",
	"OPTIONS * HTTP/1.1", "GET ?x HTTP/1.1", "GET //x HTTP/1.1", "GET #x HTTP/1.1", "CONNECT h:1 HTTP/1.1", "CONNECT h:1", "PRI * HTTP/1.1",
	"QUERY /x HTTP/1.1", strings.Repeat("M", 40) + " /x HTTP/1.1", "GET /" + strings.Repeat("x", 5000) + " HTTP/1.1", "GET / HTTP/1.1 RTSP/1.0",
	"GET /x RTSP/1.0", "SOURCE /x ICE/1.0", "DESCRIBE /x RTSP/1.0", "GET /x HTTP /1.1", "GET /x\rHTTP/1.1", "\x01GET /x HTTP/1.1", "GET\x00/x HTTP/1.1",
}

// What real servers take for a request gets past no hook.
func TestR61_Referees(t *testing.T) {
	t.Parallel()
	for tool := range referees {
		t.Run(tool, func(t *testing.T) {
			addr := startReferee(t, tool)
			proxy := start(t, &mitm.Proxy{Mode: fixed(mitm.Destination{Addr: addr}), Hooks: []mitm.Hook{refuseAll()}})
			served := 0
			for _, line := range firstLines {
				for _, end := range []string{"\r\nHost: h\r\nConnection: close\r\n\r\n", "\nHost: h\nConnection: close\n\n"} {
					if !refereeServes(t, addr, line+end) {
						continue
					}
					served++
					if refereeServes(t, proxy, line+end) && !exempt(line) {
						t.Errorf("%q reaches the server", line+end)
					}
				}
			}
			if served < 15 {
				t.Errorf("the server took %d of the lines for requests", served)
			}
			t.Logf("%d of %d served", served, 2*len(firstLines))
		})
	}
}

// exempt reports whether a line passes because it is one of another protocol: RTSP, Icecast, Redis.
func exempt(line string) bool {
	return line == "DESCRIBE /x RTSP/1.0" || line == "SOURCE /x ICE/1.0" || line == "GET x"
}

// refereeServes reports whether what is said to addr is taken for a request.
func refereeServes(t *testing.T, addr, said string) bool {
	c := dial(t, addr)
	defer c.Close()
	c.send(said)
	c.closeWrite()
	got, _ := c.rest()
	return strings.Contains(got, " 299")
}
