package mitm_test

import (
	"crypto/tls"
	"net"
	"testing"

	"example.com/mitm"
)

// allocations counts what an exchange on nc allocates in this process: in the client, the
// proxy and the origin.
func allocations(t *testing.T, nc net.Conn, request []byte) float64 {
	t.Helper()
	if raceEnabled() {
		t.Skip("the race detector allocates")
	}
	buf := make([]byte, 4096)
	exchange(t, nc, request, buf, 0)
	want := exchange(t, nc, request, buf, 0)
	return testing.AllocsPerRun(1000, func() { exchange(t, nc, request, buf, want) })
}

// An exchange that nobody hooks allocates nothing; what two hooks need has a bound, their own
// two lists of values included.
func TestAllocations(t *testing.T) {
	addr := fixedOrigin(t, headEnd, 128)
	absolute, asOrigin := benchRequest("http://"+addr+"/path?query", addr), benchRequest("/path?query", addr)
	dial := func(proxy string) net.Conn { return benchConn(t, proxy) }
	for name, way := range map[string]struct {
		mode    mitm.Mode
		open    func(proxy string) net.Conn
		request []byte
	}{
		"explicit": {nil, dial, absolute},
		"reverse":  {reverseTo(addr), dial, asOrigin},
		"socks5":   {nil, func(proxy string) net.Conn { return socksTo(t, proxy, addr, "").Conn }, asOrigin},
	} {
		for most, hooks := range map[float64][]mitm.Hook{0: nil, 11: settingHooks()} {
			proxy := start(t, &mitm.Proxy{Mode: way.mode, Hooks: hooks})
			if n := allocations(t, way.open(proxy), way.request); n > most {
				t.Errorf("%s with %d hooks: %v allocations for an exchange", name, len(hooks), n)
			}
		}
	}
}

// An intercepted exchange without hooks allocates twice, in crypto/tls. What it does in the
// client and the origin of the test is known from an exchange between these two.
func TestInterceptedAllocations(t *testing.T) {
	addr, originRoots := benchOrigin(t, 1)
	request := benchRequest("/path?query", "example.com")
	direct := tls.Client(benchConn(t, addr), &tls.Config{ServerName: "example.com", RootCAs: originRoots})
	without := allocations(t, direct, request)
	p, roots := interceptor(t, addr, originRoots)
	through := tunnelTLS(t, start(t, p), "example.com", &tls.Config{RootCAs: roots})
	with := allocations(t, through, request)
	if t.Logf("%v and %v", with, without); with-without > 2 {
		t.Errorf("%v allocations for an exchange, %v without the proxy", with, without)
	}
}
