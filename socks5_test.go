package mitm

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The client's side of the wire format, written from the RFCs and not from the parsers.

func socksGreeting(methods string) string {
	return "\x05" + octet(len(methods)) + methods
}

func socksCredentials(user, password string) string {
	return "\x01" + octet(len(user)) + user + octet(len(password)) + password
}

// socksConnectTo writes addr, host:port, as an address where it is one.
func socksConnectTo(addr string) string {
	host, portText, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(portText)
	to := "\x03" + octet(len(host)) + host
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
		to = "\x01" + string(ip.AsSlice())
	} else if err == nil {
		to = "\x04" + string(ip.AsSlice())
	}
	return "\x05\x01\x00" + to + octet(port>>8) + octet(port)
}

func octet(n int) string { return string([]byte{byte(n)}) }

// everyPrefix checks that parse wants more of every true prefix of message, and that it
// leaves alone what follows.
func everyPrefix(t *testing.T, message string, parse func(b []byte) (n int, err error)) {
	t.Helper()
	for i := range len(message) {
		if n, err := parse([]byte(message[:i])); n != 0 || err != nil {
			t.Errorf("%q: got %d, %v; want more", message[:i], n, err)
		}
	}
	for _, next := range []string{"", "\x00", message} {
		if n, err := parse([]byte(message + next)); n != len(message) || err != nil {
			t.Errorf("%q: got %d, %v; want %d", message+next, n, err, len(message))
		}
	}
}

func TestSOCKSGreeting(t *testing.T) {
	for _, methods := range []string{"", "\x00", "\x02\x00", strings.Repeat("\x80", 127)} {
		greeting := socksGreeting(methods)
		everyPrefix(t, greeting, func(b []byte) (int, error) {
			got, n, err := parseSOCKSGreeting(b)
			if n > 0 && string(got) != methods {
				t.Errorf("%q: methods %q", b, got)
			}
			return n, err
		})
	}
	if methods, n, err := parseSOCKSGreeting([]byte("\x05\xff" + strings.Repeat("m", 255))); len(methods) != 255 || n != 257 || err != nil {
		t.Errorf("255 methods: got %d in %d bytes, %v", len(methods), n, err)
	}
	for _, b := range []string{"\x04", "\x00\x01\x00", "G"} {
		if _, n, err := parseSOCKSGreeting([]byte(b)); n != 0 || !errors.Is(err, errSOCKSVersion) {
			t.Errorf("%q: got %d, %v", b, n, err)
		}
	}
}

func TestSOCKSMethod(t *testing.T) {
	for _, test := range []struct {
		offered  string
		password bool
		want     byte
	}{
		{"\x00", false, 0x00},
		{"\x02\x00", false, 0x00},
		{"\x02", false, 0xFF},
		{"", false, 0xFF},
		{"\x01\xff", false, 0xFF},
		{"\x00\x02", true, 0x02},
		{"\x00", true, 0xFF}, // no way around the password
		{"", true, 0xFF},
		{"\xff", true, 0xFF},
	} {
		if got := chooseSOCKSMethod([]byte(test.offered), test.password); got != test.want {
			t.Errorf("offered %q, password %v: chose %#x, want %#x", test.offered, test.password, got, test.want)
		}
	}
}

func TestSOCKSPassword(t *testing.T) {
	long := strings.Repeat("l", 255)
	for _, want := range [][2]string{
		{"user", "password"}, {"u", "with:colon"}, {"jürgen", "pässwörd"}, {"", ""}, {"u", ""}, {"", "p"},
		{long, long}, {"nul\x00", "\x00\xff"},
	} {
		everyPrefix(t, socksCredentials(want[0], want[1]), func(b []byte) (int, error) {
			user, password, n, err := parseSOCKSPassword(b)
			if n > 0 && (string(user) != want[0] || string(password) != want[1]) {
				t.Errorf("%q: got %q and %q", want, user, password)
			}
			return n, err
		})
	}
	for _, b := range []string{"\x00", "\x05\x01u\x01p", "\x02"} {
		if _, _, n, err := parseSOCKSPassword([]byte(b)); n != 0 || !errors.Is(err, errSOCKSAuth) {
			t.Errorf("%q: got %d, %v", b, n, err)
		}
	}
}

func TestSOCKSRequest(t *testing.T) {
	long := strings.Repeat("l", 255)
	for request, want := range map[string]string{
		"\x01\x7f\x00\x00\x01\x00\x50":                                   "127.0.0.1:80",
		"\x01\x00\x00\x00\x00\xff\xff":                                   "0.0.0.0:65535",
		"\x04" + strings.Repeat("\x00", 15) + "\x01\x01\xbb":             "[::1]:443",
		"\x04\x20\x01\x0d\xb8" + strings.Repeat("\x00", 12) + "\x00\x01": "[2001:db8::]:1",
		"\x03\x0borigin.test\x00\x50":                                    "origin.test:80",
		"\x03\x0bOrigin.TEST\x00\x50":                                    "origin.test:80", // as in a request target
		"\x03\x01a\x00\x01":                                              "a:1",
		"\x03\x0bunder_score\x00\x50":                                    "under_score:80",
		"\x03\xff" + long + "\x00\x50":                                   long + ":80",
		"\x03\x09127.0.0.1\x00\x50":                                      "127.0.0.1:80", // an address after all
		"\x03\x03::1\x00\x50":                                            "[::1]:80",
		"\x03\x0f0:0:0:0:0:0:0:1\x00\x50":                                "[::1]:80",
	} {
		everyPrefix(t, "\x05\x01\x00"+request, func(b []byte) (int, error) {
			addr, n, err := parseSOCKSRequest(b)
			if n > 0 && addr != want {
				t.Errorf("%q: got %s, want %s", request, addr, want)
			}
			return n, err
		})
	}
}

func TestSOCKSRequestRefused(t *testing.T) {
	domain := func(host string) string { return "\x05\x01\x00\x03" + octet(len(host)) + host + "\x00\x50" }
	for request, want := range map[string]error{
		"\x04\x01\x00\x01\x7f\x00\x00\x01\x00\x50": errSOCKSVersion,
		"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50": errSOCKSCommand,
		"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50": errSOCKSCommand, // BIND
		"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00": errSOCKSCommand, // UDP ASSOCIATE
		"\x05\xff\x00\x09\x00\x00\x00":             errSOCKSCommand,
		"\x05\x01\x00\x00\x7f\x00\x00\x01\x00\x50": errSOCKSAddress,
		"\x05\x01\x00\x02\x7f\x00\x00\x01\x00\x50": errSOCKSAddress,
		"\x05\x01\x00\xff\x00":                     errSOCKSAddress,
		"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x00": errSOCKSHost, // port 0
		"\x05\x01\x00\x03\x01a\x00\x00":            errSOCKSHost,
		domain(""):                                 errSOCKSHost,
		domain("origin\x00.test"):                  errSOCKSHost,
		domain("origin test"):                      errSOCKSHost,
		domain(" origin.test"):                     errSOCKSHost,
		domain("origin.test:80"):                   errSOCKSHost,
		domain("origin.test:"):                     errSOCKSHost,
		domain("[::1]"):                            errSOCKSHost,
		domain("[::1]:80"):                         errSOCKSHost,
		domain("::1%lo"):                           errSOCKSHost, // a zone of the client's
		domain("::1%25lo"):                         errSOCKSHost,
		domain("user@origin.test"):                 errSOCKSHost,
		domain("origin.test/path"):                 errSOCKSHost,
		domain("origin.test\r\nX: y"):              errSOCKSHost,
		domain("jürgen.test"):                      errSOCKSHost,
		domain("100%"):                             errSOCKSHost,
		domain("\xff"):                             errSOCKSHost,
	} {
		if addr, n, err := parseSOCKSRequest([]byte(request)); addr != "" || n != 0 || err != want {
			t.Errorf("%q: got %q, %d, %v; want %v", request, addr, n, err, want)
		}
	}
}

func TestSOCKSReplies(t *testing.T) {
	for code := range socksAddressUnsupported + 1 {
		want := "\x05" + octet(int(code)) + "\x00\x01\x00\x00\x00\x00\x00\x00"
		if got := appendSOCKSReply([]byte("x"), code); string(got) != "x"+want {
			t.Errorf("reply %d: %q", code, got)
		}
	}
	if got := appendSOCKS4Refusal([]byte("x")); string(got) != "x\x00\x5b\x00\x00\x00\x00\x00\x00" {
		t.Errorf("SOCKS4: %q", got)
	}
}

// socksPeer is a client that has sent all it will send, in pieces, and what it was told.
type socksPeer struct {
	piecewise
	told bytes.Buffer
}

func (c *socksPeer) Write(p []byte) (int, error)      { return c.told.Write(p) }
func (c *socksPeer) Close() error                     { return nil }
func (c *socksPeer) CloseWrite() error                { return nil }
func (c *socksPeer) SetWriteDeadline(time.Time) error { return nil }

// negotiation is all that can be observed of one.
type negotiation struct {
	addr, user, password, told, rest string
	asked                            int
	failed                           bool
}

// negotiate runs the mode over text. Users whose password is their name are known.
func negotiate(text string, password bool, sizes ...byte) (n negotiation) {
	nc := &socksPeer{piecewise: piecewise{text: text, sizes: sizes}}
	s := newStream(nc)
	defer s.drop()
	mode := Explicit{}
	if password {
		mode.Authenticate = func(_ context.Context, user, password string) error {
			n.asked++
			if n.user, n.password = user, password; user != password {
				return ErrCredentials
			}
			return nil
		}
	}
	d, err := mode.Destination(context.Background(), &Conn{s: s})
	n.addr, n.failed = d.Addr, err != nil
	n.told = nc.told.String()
	if err == nil {
		n.rest = string(s.buffered()) + nc.text
	}
	return n
}

// FuzzSOCKS5 negotiates over any bytes, cut into any pieces.
func FuzzSOCKS5(f *testing.F) {
	request := socksConnectTo("origin.test:80")
	for _, text := range []string{
		socksGreeting("\x00") + request + "first",
		socksGreeting("\x00\x02") + socksCredentials("u", "u") + socksConnectTo("[::1]:443") + "\x16\x03\x01",
		socksGreeting("\x02") + socksCredentials("u", "wrong") + request,
		socksGreeting("\x02") + "\x05\x01u\x01u" + request,
		socksGreeting("\x01") + request,
		socksGreeting("\x00") + "\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50",
		socksGreeting("\x00") + "\x05\x01\x00\x05\x7f\x00\x00\x01\x00\x50",
		socksGreeting("\x00") + socksConnectTo("127.0.0.1:0"),
		"\x04\x01\x00\x50\x7f\x00\x00\x01user\x00",
		"GET / HTTP/1.1\r\n\r\n",
	} {
		f.Add(text, false, []byte{0})
		f.Add(text, true, []byte{3, 0, 1})
	}
	f.Fuzz(func(t *testing.T, text string, password bool, sizes []byte) {
		whole, cut := negotiate(text, password), negotiate(text, password, sizes...)
		if whole != cut {
			t.Errorf("%q: in one piece %+v, in %d %+v", text, whole, sizes, cut)
		}
		if text == "" || text[0] != socks5Version {
			return
		}
		checkNegotiation(t, text, password, whole)
	})
}

// checkNegotiation compares n, of text, with what a client encodes that wants the same.
func checkNegotiation(t *testing.T, text string, password bool, n negotiation) {
	ends := map[bool]string{false: "\x05\x00", true: "\x05\x02\x01\x00"}
	succeeded := strings.HasPrefix(n.told, ends[password])
	if !n.failed && (!succeeded || n.told != ends[password] || n.asked == 1 != password) {
		t.Errorf("%q: told %q, asked %d times", text, n.told, n.asked)
	}
	if n.failed {
		if n.addr != "" || succeeded && strings.HasPrefix(n.told[len(ends[password]):], "\x05\x00") {
			t.Errorf("%q: failed for %q, told %q", text, n.addr, n.told)
		}
		return
	}
	used := text[:len(text)-len(n.rest)]
	encoded := socksGreetingOf(text)
	if password {
		if n.user != n.password {
			t.Errorf("%q: user %q got in with %q", text, n.user, n.password)
		}
		encoded += socksCredentials(n.user, n.password)
	}
	if len(used) < len(encoded)+4 || used[:len(encoded)] != encoded {
		t.Fatalf("%q: consumed %q, which does not begin with %q", text, used, encoded)
	}
	checkSOCKSAddr(t, used[len(encoded):], n.addr)
}

func socksGreetingOf(text string) string { return text[:2+int(text[1])] }

// checkSOCKSAddr compares the destination of a request with what it encodes to. Of a
// domain name only the case may differ, unless it was an address after all.
func checkSOCKSAddr(t *testing.T, request, addr string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "0" || strings.ContainsAny(host, " \x00\r\n[]@/") {
		t.Errorf("%q: destination %q, %v", request, addr, err)
	}
	want := socksConnectTo(addr)
	if request[3] == socksDomain {
		name := request[5 : len(request)-2]
		if ip, err := netip.ParseAddr(name); err == nil {
			name = ip.String()
		}
		if host != strings.ToLower(name) {
			t.Errorf("%q: destination %q", request, addr)
		}
		want = request[:len(request)-2] + want[len(want)-2:]
	}
	if got := request[:2] + "\x00" + request[3:]; got != want[:2]+"\x00"+want[3:] {
		t.Errorf("%q: destination %q is encoded as %q", request, addr, want)
	}
}

// Whatever a client encodes is understood.
func TestSOCKSRoundTrip(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:80", "[::1]:65535", "[2001:db8::1]:1", "[::ffff:10.0.0.1]:80", "origin.test:443"} {
		for _, password := range []bool{false, true} {
			text := socksGreeting("\x02\x00")
			if password {
				text += socksCredentials("a:b", "a:b")
			}
			text += socksConnectTo(addr)
			want := negotiate(text+"rest", password)
			if want.addr != addr || want.rest != "rest" || want.failed {
				t.Errorf("%s: %+v", addr, want)
			}
			for size := range len(text) {
				if got := negotiate(text+"rest", password, byte(size)); got != want {
					t.Errorf("%s in pieces of %d: %+v", addr, size+1, got)
				}
			}
			for end := 1; end < len(text); end++ { // a client that leaves
				if got := negotiate(text[:end], password); !got.failed || got.addr != "" {
					t.Errorf("%s cut after %d bytes: %+v", addr, end, got)
				}
			}
		}
	}
}

func TestSOCKSReplyTo(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want socksReply
	}{
		"none":            {nil, 0},
		"unknown":         {errors.New("what"), 1},
		"loop":            {&OpError{Op: "dial", Err: ErrLoop}, 1},
		"host":            {errSOCKSHost, 1},
		"version":         {errSOCKSVersion, 1},
		"rejected":        {&OpError{Op: "hook", Err: ErrRejected}, 2},
		"no such host":    {&OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, 4},
		"resolver silent": {&OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}, 4},
		"deadline":        {&OpError{Op: "dial", Err: context.DeadlineExceeded}, 6},
		"command":         {errSOCKSCommand, 7},
		"address":         {errSOCKSAddress, 8},
	} {
		if got := socksReplyTo(test.err); got != test.want {
			t.Errorf("%s: reply %d, want %d", name, got, test.want)
		}
	}
}

// Failures of the proxy's own system are told from those of the network and of the host.
func TestR59_LocalFailures(t *testing.T) {
	for errno, want := range map[syscall.Errno]socksReply{
		syscall.EMFILE: 1, syscall.ENFILE: 1, syscall.EADDRNOTAVAIL: 1, syscall.EADDRINUSE: 1, syscall.ENOBUFS: 1, syscall.EAGAIN: 1,
		syscall.EACCES: 2, syscall.EPERM: 2,
		syscall.ENETUNREACH: 3, syscall.ENETDOWN: 3,
		syscall.EHOSTUNREACH: 4, syscall.EHOSTDOWN: 4,
		syscall.ECONNREFUSED: 5,
		syscall.ETIMEDOUT:    6,
		syscall.EAFNOSUPPORT: 8,
		syscall.EINVAL:       1,
	} {
		if runtime.GOOS == "windows" { // which has numbers of its own
			break
		}
		err := &OpError{Op: "dial", Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}}
		if got := socksReplyTo(err); got != want {
			t.Errorf("%v: reply %d, want %d", errno, got, want)
		}
	}
	if got := socksReplyTo(&OpError{Op: "dial", Err: ErrProxyClosed}); got != socksGeneralFailure {
		t.Errorf("closed: reply %d", got)
	}
}
