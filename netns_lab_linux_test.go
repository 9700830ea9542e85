package mitm_test

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/mitm"
)

// lab is the two namespaces beside that of the test, which is the router's. The router
// is connected to the client by lan0, to the server by wan0.
type lab struct{ client, server *namespace }

// family is one of the two kinds of addresses that everything in the lab has.
type family struct{ name, router, client, wan, servers string }

var families = []family{
	{"IPv4", "10.77.1.1", "10.77.1.2", "10.77.2.1", "10.77.2.1%d"},
	{"IPv6", "fd77:1::1", "fd77:1::2", "fd77:2::1", "fd77:2::1%d"},
}

// server returns one of the addresses that servers have, n is 0 to 5. Nobody answers
// at server 9.
func (f family) server(n, port int) string {
	return net.JoinHostPort(fmt.Sprintf(f.servers, n), strconv.Itoa(port))
}

// newLab sets up addresses and routes. It skips tests that run elsewhere.
func newLab(t *testing.T) *lab {
	t.Helper()
	if os.Getenv(labVariable) != "router" {
		t.Skip("is run by TestNetns")
	}
	l := &lab{holdNamespace(t), holdNamespace(t)}
	var router *namespace
	for _, n := range []*namespace{router, l.client, l.server} {
		n.sysctl(t, "ipv6/conf/default/accept_dad", "0")
	}
	for _, name := range []string{"ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"} {
		router.sysctl(t, name, "0")
	}
	router.sysctl(t, "ipv4/ip_forward", "1")
	router.sysctl(t, "ipv6/conf/all/forwarding", "1")
	router.run(t, fmt.Sprintf(routerAddresses, l.client.pid, l.server.pid), "ip", "-batch", "-")
	l.client.run(t, clientAddresses, "ip", "-batch", "-")
	l.server.run(t, serverAddresses, "ip", "-batch", "-")
	for _, version := range []string{"-4", "-6"} {
		router.run(t, "rule add fwmark 1 lookup 100\n", "ip", version, "-batch", "-")
	}
	t.Cleanup(func() {
		router.run(t, "link del lan0\nlink del wan0\n", "ip", "-batch", "-")
		for _, version := range []string{"-4", "-6"} {
			router.run(t, "rule del fwmark 1\nroute flush table 100\n", "ip", version, "-batch", "-")
		}
	})
	return l
}

const (
	routerAddresses = `link set lo up
link add lan0 type veth peer name eth0 netns %d
link add wan0 type veth peer name eth0 netns %d
addr add 10.77.1.1/24 dev lan0
addr add fd77:1::1/64 dev lan0 nodad
addr add 10.77.2.1/24 dev wan0
addr add fd77:2::1/64 dev wan0 nodad
link set lan0 up
link set wan0 up
neigh add 10.77.2.19 lladdr 02:00:00:00:00:19 dev wan0 nud permanent
neigh add fd77:2::19 lladdr 02:00:00:00:00:19 dev wan0 nud permanent
route add local 0.0.0.0/0 dev lo table 100
route add local ::/0 dev lo table 100
`
	clientAddresses = `link set lo up
addr add 10.77.1.2/24 dev eth0
addr add fd77:1::2/64 dev eth0 nodad
link set eth0 up
route add default via 10.77.1.1
route add default via fd77:1::1
`
	serverAddresses = `link set lo up
addr add 10.77.2.10/24 dev eth0
addr add 10.77.2.11/24 dev eth0
addr add 10.77.2.12/24 dev eth0
addr add 10.77.2.13/24 dev eth0
addr add 10.77.2.14/24 dev eth0
addr add 10.77.2.15/24 dev eth0
addr add fd77:2::10/64 dev eth0 nodad
addr add fd77:2::11/64 dev eth0 nodad
addr add fd77:2::12/64 dev eth0 nodad
addr add fd77:2::13/64 dev eth0 nodad
addr add fd77:2::14/64 dev eth0 nodad
addr add fd77:2::15/64 dev eth0 nodad
link set eth0 up
route add default via 10.77.2.1
route add default via fd77:2::1
`
)

// way is how connections come to the proxy: rules in which PORT is the proxy's, and the
// mode that goes with them.
type way struct {
	name, rules string
	mode        mitm.Transparent
}

var (
	redirect = way{name: "REDIRECT", rules: `table inet lab {
		chain pre {
			type nat hook prerouting priority dstnat
			iifname != "lan0" return
			fib daddr type local return
			meta l4proto tcp redirect to :PORT
		}
	}`}
	dnat = way{name: "DNAT", rules: `table inet lab {
		chain pre {
			type nat hook prerouting priority dstnat
			iifname != "lan0" return
			fib daddr type local return
			meta nfproto ipv4 meta l4proto tcp dnat ip to 10.77.1.1:PORT
			meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd77:1::1]:PORT
		}
	}`}
	tproxy = way{name: "TPROXY", mode: mitm.Transparent{TPROXY: true}, rules: divert + `table inet lab {
		chain pre {
			type filter hook prerouting priority -145
			iifname != "lan0" return
			fib daddr type local return
			meta nfproto ipv4 meta l4proto tcp tproxy ip to :PORT meta mark set 1 accept
			meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :PORT meta mark set 1 accept
		}
	}`}
	// local is for clients on the machine of the proxy.
	local = way{name: "local", mode: mitm.Transparent{Mark: 0x7a}, rules: `table inet lab {
		chain out {
			type nat hook output priority -100
			meta mark 0x7a return
			oifname "lo" return
			meta l4proto tcp redirect to :PORT
		}
	}`}
)

// divert leads packets to sockets that have foreign addresses.
const divert = `table inet divert {
	chain pre {
		type filter hook prerouting priority -150
		meta l4proto tcp socket transparent 1 meta mark set 1 accept
	}
}
`

// eachWay runs f for all ways from the client's namespace, and both kinds of addresses.
func eachWay(t *testing.T, f func(t *testing.T, w way, ip family)) {
	t.Helper()
	for _, w := range []way{redirect, dnat, tproxy} {
		eachFamily(t, w, func(t *testing.T, ip family) { f(t, w, ip) })
	}
}

func eachFamily(t *testing.T, w way, f func(t *testing.T, ip family)) {
	t.Helper()
	for _, ip := range families {
		t.Run(w.name+"/"+ip.name, func(t *testing.T) { f(t, ip) })
	}
}

// start serves p, to which w leads connections until the test ends, and returns its port.
func (l *lab) start(t *testing.T, p *mitm.Proxy, w way) (port int) {
	t.Helper()
	if p.Mode == nil {
		p.Mode = w.mode
	}
	listener, err := p.Mode.(mitm.Transparent).Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	return l.startOn(t, p, w, listener)
}

func (l *lab) startOn(t *testing.T, p *mitm.Proxy, w way, listener net.Listener) (port int) {
	t.Helper()
	var router *namespace
	port = listener.Addr().(*net.TCPAddr).Port
	router.run(t, strings.ReplaceAll(w.rules, "PORT", strconv.Itoa(port))+"\n", "nft", "-f", "-")
	served := make(chan error, 1)
	go func() { served <- p.Serve(listener) }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; err != mitm.ErrProxyClosed {
			t.Errorf("Serve returned %v", err)
		}
		router.run(t, "flush ruleset\n", "nft", "-f", "-")
		flushConntrack(t) // or a client port that is used again leads to this proxy
	})
	return port
}

// listen listens in the server's namespace.
func (l *lab) listen(t *testing.T, addr string) (listener net.Listener) {
	t.Helper()
	var err error
	l.server.do(func() { listener, err = net.Listen("tcp", addr) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}

// serve is origin in the server's namespace.
func (l *lab) serve(t *testing.T, addr string, serve func(c *peer)) {
	t.Helper()
	listener := l.listen(t, addr)
	go func() {
		for {
			nc, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				serve(newPeer(t, nc))
			}()
		}
	}()
}

// web answers every request with the address that it came to, and tells its head.
func (l *lab) web(t *testing.T, addr string) (heads chan string) {
	t.Helper()
	heads = make(chan string, 64)
	l.serve(t, addr, func(c *peer) {
		for {
			head, err := c.tryHead()
			if err != nil {
				return
			}
			heads <- head
			c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(addr), c.LocalAddr()))
		}
	})
	return heads
}

// await returns what comes out of ch.
func await[T any](t *testing.T, ch chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatal("nothing came")
	}
	return v
}
