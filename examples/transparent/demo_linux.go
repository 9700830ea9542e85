package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"example.com/mitm"
)

// The demo is one program in four processes, each of which has its role from the
// environment. The namespaces have no names and live as long as their processes, which the
// kernel ends with their parent: nothing can be left behind.
const roleVariable = "MITM_DEMO_ROLE"

const (
	client4, router4, server4 = "10.77.1.2", "10.77.1.1", "10.77.2.2"
	client6, router6, server6 = "fd77:1::2", "fd77:1::1", "fd77:2::2"
)

const rules = `
table inet mitm {
  chain prerouting {
    type nat hook prerouting priority dstnat
    iifname "client" fib daddr type local return
    iifname "client" meta l4proto tcp redirect to :8080
  }
}
`

func runDemo() error {
	runtime.LockOSThread() // children end with the thread that started them
	switch os.Getenv(roleVariable) {
	case "":
		router := child("router", syscall.CLONE_NEWNET)
		return router.Run()
	case "router":
		return runRouter()
	case "server":
		return runServer()
	case "client":
		return runClient()
	default: // hold a namespace
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
}

// child prepares another process of this program. Without root it gets a user namespace
// too, where the kernel allows that.
func child(role string, namespaces uintptr) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "-demo")
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// runRouter is the machine in the middle: it builds the network, installs the rules and
// runs the proxy while the client does its round.
func runRouter() error {
	server, client := child("server", syscall.CLONE_NEWNET), child("hold", syscall.CLONE_NEWNET)
	pair, err := serverCertificate()
	if err != nil {
		return err
	}
	server.Env = append(server.Env, pemVariable+"="+pair)
	for _, cmd := range []*exec.Cmd{server, client} {
		keepOpen, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		defer keepOpen.Close()
		if err := cmd.Start(); err != nil {
			return err
		}
		defer cmd.Wait()
		defer cmd.Process.Kill()
	}
	if err := buildNetwork(client.Process.Pid, server.Process.Pid); err != nil {
		return err
	}
	if err := awaitServer(); err != nil {
		return err
	}
	l, err := mitm.Transparent{}.Listen(":8080")
	if err != nil {
		return err
	}
	p := &mitm.Proxy{Mode: mitm.Transparent{}, Hooks: []mitm.Hook{mitm.OnConn(printConn), mitm.OnDone(printFlow)}}
	trusted, err := openTLS(p, pair)
	if err != nil {
		return err
	}
	defer p.Close()
	go p.Serve(l)
	round := inNamespace(client.Process.Pid, "/proc/self/exe", "-demo")
	round.Env = append(os.Environ(), roleVariable+"=client", pemVariable+"="+trusted)
	return round.Run()
}

// buildNetwork joins client and server to the router, on IPv4 and IPv6.
func buildNetwork(client, server int) error {
	for _, side := range []struct {
		name, host4, gate4, host6, gate6 string
		pid                              int
	}{
		{"client", client4, router4, client6, router6, client},
		{"server", server4, "10.77.2.1", server6, "fd77:2::1", server},
	} {
		up := strings.NewReplacer("NAME", side.name, "PID", fmt.Sprint(side.pid),
			"HOST4", side.host4, "GATE4", side.gate4, "HOST6", side.host6, "GATE6", side.gate6)
		if err := lines("", up.Replace(`ip link set lo up
			ip link add NAME type veth peer name eth0 netns PID
			ip addr add GATE4/24 dev NAME
			ip addr add GATE6/64 dev NAME nodad
			ip link set NAME up`)); err != nil {
			return err
		}
		if err := lines(fmt.Sprint(side.pid), up.Replace(`ip link set lo up
			ip addr add HOST4/24 dev eth0
			ip addr add HOST6/64 dev eth0 nodad
			ip link set eth0 up
			ip route add default via GATE4
			ip -6 route add default via GATE6`)); err != nil {
			return err
		}
	}
	for _, file := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+file, []byte("1"), 0); err != nil {
			return err
		}
	}
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin, nft.Stderr = strings.NewReader(rules), os.Stderr
	fmt.Println("rules  ", strings.ReplaceAll(strings.TrimSpace(rules), "\n", "\nrules   "))
	return nft.Run()
}

// lines runs commands, one a line, in the network namespace of a process.
func lines(pid, commands string) error {
	for line := range strings.SplitSeq(commands, "\n") {
		words := strings.Fields(line)
		if pid != "" {
			words = append([]string{"nsenter", "--net=/proc/" + pid + "/ns/net"}, words...)
		}
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

func inNamespace(pid int, command ...string) *exec.Cmd {
	exe, _ := os.Executable()
	command[0] = exe
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/ns/net", pid)}, command...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

// runServer serves HTTP, with TLS and without, and a protocol in which the server speaks first.
func runServer() error {
	plain, err := net.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", ":443")
	if err != nil {
		return err
	}
	greeter, err := net.Listen("tcp", ":25") // the last one: see awaitServer
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(plain, http.HandlerFunc(servePage))) }()
	go func() { log.Fatal(serveTLS(secure, http.HandlerFunc(servePage))) }()
	for {
		nc, err := greeter.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintf(nc, "220 %v greets whoever comes\r\n", nc.LocalAddr())
		nc.Close()
	}
}

// awaitServer waits until everything listens.
func awaitServer() (err error) {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		var nc net.Conn
		if nc, err = net.DialTimeout("tcp", net.JoinHostPort(server4, "25"), time.Second); err == nil {
			return nc.Close()
		}
	}
	return err
}

func servePage(w http.ResponseWriter, req *http.Request) {
	at := req.Context().Value(http.LocalAddrContextKey)
	fmt.Fprintf(w, "%s %s in %s, called %s, arrived at %v\n", req.Method, req.URL, req.Proto, req.Host, at)
}

// runClient knows nothing of a proxy.
func runClient() error {
	for _, server := range []string{server4, server6} {
		at, secure := net.JoinHostPort(server, "80"), net.JoinHostPort(server, "443")
		for _, visit := range []struct{ url, host, at string }{
			{"http://" + at + "/page", "", at},
			{"http://" + at + "/page", "forged.example", at},
			{"https://" + serverName + "/page", "", secure},
			{"https://" + strings.TrimSuffix(secure, ":443") + "/page", "", secure}, // no name in TLS
			{"https://" + serverName + "/page", "forged.example", secure},
		} {
			if err := fetch(visit.url, visit.host, visit.at); err != nil {
				return err
			}
		}
		if err := greeting(net.JoinHostPort(server, "25")); err != nil {
			return err
		}
	}
	return nil
}

// fetch gets a page from the server at an address, under a Host field that may lie.
func fetch(url, host, at string) error {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	client := http.Client{Timeout: 10 * time.Second, Transport: transportTo(at)}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	defer res.Body.Close()
	if res.TLS != nil {
		printCertificate(res.TLS.PeerCertificates[0])
	}
	body, err := io.ReadAll(res.Body)
	fmt.Printf("client  %s: %s", res.Status, body)
	return err
}

func greeting(addr string) error {
	nc, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return err
	}
	defer nc.Close()
	line, err := bufio.NewReader(nc).ReadString('\n')
	if err != nil {
		return errors.Join(errors.New("no greeting"), err)
	}
	fmt.Printf("client  %s\n", strings.TrimSpace(line))
	return nil
}
