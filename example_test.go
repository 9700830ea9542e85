package mitm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"

	"example.com/mitm"
)

// The Examples use these three; what is theirs alone comes with each.

// serve runs p on a free port and returns its URL.
func serve(p *mitm.Proxy) *url.URL {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go p.Serve(l)
	return &url.URL{Scheme: "http", Host: l.Addr().String()}
}

// through returns a client that sends everything through p.
func through(p *mitm.Proxy) *http.Client {
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(serve(p)), DisableKeepAlives: true}}
}

// show prints the status and the content of what client gets for rawURL.
func show(client *http.Client, rawURL string) {
	res, err := client.Get(rawURL)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	content, _ := io.ReadAll(res.Body)
	fmt.Println(res.StatusCode, strings.TrimSpace(string(content)))
}

// greet is the origin server of the Examples.
func greet(w http.ResponseWriter, req *http.Request) {
	fmt.Fprintf(w, "hello from %s", req.URL.Path)
}

// A proxy that forwards everything, and a client that uses it.
func Example() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()

	var proxy mitm.Proxy
	defer proxy.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go proxy.Serve(l)

	proxyURL := &url.URL{Scheme: "http", Host: l.Addr().String()}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxyURL), DisableKeepAlives: true}}
	res, err := client.Get(origin.URL + "/world")
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	fmt.Println(res.Status, string(content), err)
	// Output: 200 OK hello from /world <nil>
}

// A response that never comes from the network.
func ExampleOnRequest_answer() {
	proxy := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			if req.URL.Path != "/users/1" {
				return nil, nil // goes on to the origin server
			}
			return &http.Response{
				StatusCode: 200,
				Header:     http.Header{"Content-Type": {"application/json"}},
				Body:       io.NopCloser(strings.NewReader(`{"name": "Ada"}`)),
			}, nil
		}),
	}}
	defer proxy.Close()

	show(through(proxy), "http://api.test/users/1")
	// Output: 200 {"name": "Ada"}
}

// Read the content of a response, change it, and put it back. The proxy sees to its
// length.
func ExampleOnResponse() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()

	proxy := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnResponse(func(res *http.Response) error {
			content, err := io.ReadAll(res.Body)
			if err != nil {
				return err
			}
			content = bytes.ReplaceAll(content, []byte("hello"), []byte("goodbye"))
			res.Body = io.NopCloser(bytes.NewReader(content))
			return nil
		}),
	}}
	defer proxy.Close()

	show(through(proxy), origin.URL+"/world")
	// Output: 200 goodbye from /world
}

// Decide by destination, before anything is dialled: refuse one, send another elsewhere,
// leave a third alone.
func ExampleOnConn() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()

	proxy := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnConn(func(ctx context.Context, c *mitm.Conn) (mitm.Action, error) {
			switch c.Destination.Addr {
			case "ads.test:80":
				return mitm.Reject, nil
			case "bank.test:443":
				return mitm.Tunnel, nil // never looked into
			case "www.test:80":
				c.Destination.Addr = origin.Listener.Addr().String()
			}
			return mitm.Default, nil
		}),
	}}
	defer proxy.Close()

	client := through(proxy)
	show(client, "http://ads.test/banner")
	show(client, "http://www.test/index")
	// Output:
	// 403 destination rejected
	// 200 hello from /index
}

// One line for each exchange, failures included.
func ExampleOnDone() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()

	done := make(chan *mitm.Flow, 1)
	proxy := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnDone(func(f *mitm.Flow) { done <- f }), // after the client got its last byte
	}}
	defer proxy.Close()

	client := through(proxy)
	for _, path := range []string{"/a", "/b"} {
		if res, err := client.Get(origin.URL + path); err == nil {
			res.Body.Close()
		}
		f := <-done
		u, _ := url.Parse(f.URL)
		fmt.Println(f.ID, f.Method, u.Path, f.Status, f.Received(), "bytes, error:", f.Err)
	}
	// Output:
	// 1 GET /a 200 13 bytes, error: <nil>
	// 2 GET /b 200 13 bytes, error: <nil>
}

// proxyProtocol is a mode for connections that a load balancer has put a line in front
// of: "PROXY TCP4 client destination port port".
type proxyProtocol struct{}

// Destination reads the line and goes where it says.
func (proxyProtocol) Destination(ctx context.Context, c *mitm.Conn) (mitm.Destination, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < 107; line = append(line, b[0]) { // the longest there is
		if _, err := c.Read(b); err != nil {
			return mitm.Destination{}, err
		}
		if b[0] == '\n' {
			break
		}
	}
	words := strings.Fields(string(line))
	if len(words) != 6 || words[0] != "PROXY" {
		return mitm.Destination{}, errors.New("no PROXY line")
	}
	return mitm.Destination{Addr: net.JoinHostPort(words[3], words[5])}, nil
}

// A mode of one's own: where a connection goes is written in front of it.
func ExampleMode() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()
	host, port, _ := net.SplitHostPort(origin.Listener.Addr().String())

	proxy := &mitm.Proxy{Mode: proxyProtocol{}}
	defer proxy.Close()

	conn, err := net.Dial("tcp", serve(proxy).Host)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PROXY TCP4 192.0.2.1 %s 4711 %s\r\n", host, port)
	fmt.Fprintf(conn, "GET /balanced HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n")
	answer, err := io.ReadAll(conn)
	_, content, _ := strings.Cut(string(answer), "\r\n\r\n")
	fmt.Println(content, err)
	// Output: hello from /balanced <nil>
}

// In front of one server, for clients that take the proxy for it.
func ExampleReverse() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()
	target, err := url.Parse(origin.URL)
	if err != nil {
		log.Fatal(err)
	}

	proxy := &mitm.Proxy{Mode: mitm.Reverse{Target: target}}
	defer proxy.Close()

	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	show(client, serve(proxy).String()+"/front")
	// Output: 200 hello from /front
}

// sharedNet is the address space behind carrier-grade NAT (RFC 6598).
var sharedNet = netip.MustParsePrefix("100.64.0.0/10")

// Keep clients away from addresses that are not public, also when a name hides them. Global unicast
// are all addresses but those of this machine, 0.0.0.0 and [::] among them, of this link and of
// groups.
func ExampleCheckedDial() {
	refused := make(chan bool, 1)
	proxy := &mitm.Proxy{
		Dial: mitm.CheckedDial(func(ctx context.Context, addr netip.AddrPort) error {
			if ip := addr.Addr(); !ip.IsGlobalUnicast() || ip.IsPrivate() || sharedNet.Contains(ip) {
				return fmt.Errorf("%s is not public", ip)
			}
			return nil
		}),
		Hooks: []mitm.Hook{
			mitm.OnDone(func(f *mitm.Flow) { refused <- errors.Is(f.Err, mitm.ErrRejected) }),
		},
	}

	client := through(proxy)
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "10.0.0.1", "[fd00::1]"} {
		show(client, "http://"+host+":8080/admin")
		fmt.Println(host, <-refused)
	}
	proxy.Shutdown(context.Background())
	// Output:
	// 403 destination rejected
	// 127.0.0.1 true
	// 403 destination rejected
	// 0.0.0.0 true
	// 403 destination rejected
	// [::] true
	// 403 destination rejected
	// [::ffff:127.0.0.1] true
	// 403 destination rejected
	// 10.0.0.1 true
	// 403 destination rejected
	// [fd00::1] true
}

// Decide about the order and the spelling of fields, which http.Header does not know.
func ExampleFlow() {
	origin := httptest.NewServer(http.HandlerFunc(greet))
	defer origin.Close()

	proxy := &mitm.Proxy{Hooks: []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			flow := mitm.FlowFromContext(req.Context())
			fmt.Println("came as:", flow.RequestFields)

			req.Header.Set("X-Token", "secret")
			flow.RequestFields = append([]string{"x-token"}, flow.RequestFields...)
			return nil, nil
		}),
	}}
	defer proxy.Close()

	conn, err := net.Dial("tcp", serve(proxy).Host)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s/ HTTP/1.1\r\nhost: h\r\naccept: */*\r\nConnection: close\r\n\r\n", origin.URL)
	answer, err := io.ReadAll(conn)
	status, _, _ := strings.Cut(string(answer), "\r\n")
	fmt.Println(status, err)
	// Output:
	// came as: [host accept Connection]
	// HTTP/1.1 200 OK <nil>
}
