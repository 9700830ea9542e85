package mitm_test

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// switchings are heads of a 101 as servers send them, and as they leave.
var switchings = [][2]string{
	{"HTTP/1.1 101 Web Socket Protocol Handshake\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nA: b\r\n\r\n", ""},
	{"HTTP/1.1 101 \r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", ""},
	{
		"HTTP/1.1 101 Go on\r\nupgrade: WebSocket\r\nA: b\r\n\r\n",
		"HTTP/1.1 101 Go on\r\nupgrade: WebSocket\r\nA: b\r\nConnection: Upgrade\r\n\r\n",
	}, {
		"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: keep-alive\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
	}, {
		"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nA: b\r\n\r\n",
		"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nA: b\r\nUpgrade: websocket\r\n\r\n",
	}, {
		"HTTP/1.1 101 x\r\nA: b\r\n\r\n",
		"HTTP/1.1 101 x\r\nA: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	},
}

// switching is an origin that answers each connection's request with head, and echoes then.
func switching(t *testing.T, head string) (addr string) {
	return origin(t, func(c *peer) {
		c.tryHead()
		c.send(head)
		io.Copy(c.Conn, c.r)
	})
}

// wantSwitched fails the test unless what comes next is want, but for the order of the fields, and then
// an echo.
func (p *peer) wantSwitched(want string) {
	p.t.Helper()
	if got := p.head(); !slices.Equal(sortedLines(got), sortedLines(want)) {
		p.t.Errorf("got  %q\nwant %q", got, want)
	}
	p.send("ping")
	if got := p.read(4); got != "ping" {
		p.t.Errorf("echo %q", got)
	}
}

func sortedLines(head string) []string {
	lines := strings.Split(head, "\r\n")
	slices.Sort(lines)
	return lines
}

// A 101 leaves with Upgrade and Connection, in its own words, and is the beginning of a tunnel.
func TestR70_Switching(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for _, head := range switchings {
			addr := switching(t, head[0])
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/", upgradeFields))
			if head[1] == "" {
				head[1] = head[0]
			}
			c.wantSwitched(head[1])
		}
	})
}

// The same inside TLS.
func TestR70_InsideTLS(t *testing.T) {
	addr, roots := h1Origin(t, func(c *peer) {
		c.tryHead()
		c.send(switchings[2][0])
		io.Copy(c.Conn, c.r)
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		c := newPeer(t, intercept(t, p, addr, roots).tls("http/1.1"))
		c.send("GET / HTTP/1.1\r\nHost: example.com\r\n" + upgradeFields + "\r\n\r\n")
		c.wantSwitched(switchings[2][1])
	})
}

// A protocol that was not to be had, or that nobody named, is none to switch to.
func TestR70_UnclearProtocol(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for head, fields := range map[string]string{
			"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n": upgradeFields,
			"HTTP/1.1 101 x\r\nUpgrade: TLS/1.2\r\n\r\n":                    upgradeFields,
			"HTTP/1.1 101 x\r\nConnection: Upgrade\r\n\r\n":                 "Connection: Upgrade\r\nUpgrade: a, b",
		} {
			c := dial(t, proxy)
			c.send(headTo(switching(t, head), "GET", "/", fields))
			c.wantStatus(502)
		}
	})
}

// echoBody is a connection that a hook or a transport answers with.
func echoBody() net.Conn {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		io.Copy(far, far)
	}()
	return near
}

// What a hook or a Transport makes is held to the same.
func TestR70_MadeElsewhere(t *testing.T) {
	for name, want := range map[string]string{
		"all":      "HTTP/1.1 101 My own\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"protocol": "HTTP/1.1 101 My own\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"nothing":  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
	} {
		answer := func(req *http.Request) (*http.Response, error) {
			res := &http.Response{StatusCode: 101, Status: "101 My own", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: echoBody()}
			switch name {
			case "all":
				res.Header.Set("Connection", "Upgrade")
				fallthrough
			case "protocol":
				res.Header.Set("Upgrade", "websocket")
			default:
				res.Status, res.Header = "", nil
			}
			return res, nil
		}
		for how, p := range map[string]*mitm.Proxy{
			"hook":      {Hooks: []mitm.Hook{mitm.OnRequest(answer)}},
			"transport": {Transport: roundTripper(answer)},
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				p.Dial = noWay(t)
				c := dial(t, start(t, p))
				c.send(headTo("origin.test", "GET", "/", upgradeFields))
				c.wantSwitched(want)
			})
		}
	}
}

// A hook that changes a 101 has the last word about its reason, but not about what makes it one.
func TestR70_HookChanges(t *testing.T) {
	var seen string
	hook := mitm.OnResponse(func(res *http.Response) error {
		seen = strings.Join([]string{res.Status, res.Header.Get("Connection"), res.Header.Get("Upgrade")}, "|")
		res.Status = "101 changed"
		res.Header.Del("Connection")
		res.Header.Del("Upgrade")
		return nil
	})
	proxy := start(t, &mitm.Proxy{Hooks: []mitm.Hook{hook}})
	for _, fields := range []string{"Upgrade: websocket\r\n", ""} {
		c := dial(t, proxy)
		c.send(headTo(switching(t, "HTTP/1.1 101 own\r\n"+fields+"\r\n"), "GET", "/", upgradeFields))
		c.wantSwitched("HTTP/1.1 101 changed\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		if seen != "101 own|Upgrade|websocket" {
			t.Errorf("the hook saw %q", seen)
		}
	}
}
