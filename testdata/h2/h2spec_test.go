package h2

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// knownFailures are the cases of h2spec that the proxy fails, and why. Each is one that
// net/http's own server fails, too: the proxy reads frames with it.
var knownFailures = map[string]string{
	"http2/6.5.3/1":   "net/http refuses SETTINGS in which one identifier comes twice",
	"http2/8.1.2.2/1": "connection-specific fields are answered with 400, as RFC 9113, section 8.1.1 allows",
	"http2/8.1.2.2/2": "TE other than trailers is answered with 400, as RFC 9113, section 8.1.1 allows",
}

// h2spec says nothing against the proxy that it would not say against net/http.
func TestH2Spec(t *testing.T) {
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		io.WriteString(w, strings.Repeat("content ", 100))
	}))
	origin.EnableHTTP2 = true
	origin.Config.ErrorLog = log.New(io.Discard, "", 0)
	origin.StartTLS()
	defer origin.Close()
	addr := origin.Listener.Addr().String()
	_, roots := exampleCert()
	ca, _ := newCA(t)
	proxy := startProxy(t, &mitm.Proxy{
		CA:        ca,
		OriginTLS: &tls.Config{RootCAs: roots},
		Mode:      fixed(addr),
	})

	bare, passed := run(t, addr), 0
	for id, err := range run(t, proxy) {
		number, _, _ := strings.Cut(id, " ")
		switch why, known := knownFailures[number]; {
		case err == nil:
			passed++
			if known {
				t.Errorf("%s passes", id)
			}
		case known && bare[id] != nil:
			t.Logf("known: %s: %s", id, why)
		default:
			t.Errorf("%s: %v (net/http: %v)", id, err, bare[id])
		}
	}
	t.Logf("%d of %d cases passed", passed, len(bare))
}

// fixed is a mode in which all connections go to one address. (Transparent would now and then
// take one for its own, where clients and origins have the same address.)
type fixed string

// Destination implements mitm.Mode.
func (f fixed) Destination(context.Context, *mitm.Conn) (mitm.Destination, error) {
	return mitm.Destination{Addr: string(f)}, nil
}

// run returns the outcome of every case of h2spec against the server at addr.
func run(t *testing.T, addr string) map[string]error {
	host, port, _ := net.SplitHostPort(addr)
	c := &config.Config{Host: host, Path: "/", Timeout: 2 * time.Second, MaxHeaderLen: 4000, Strict: true, TLS: true, Insecure: true}
	fmt.Sscan(port, &c.Port)
	cases := map[string]*spec.TestCase{}
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		collect(group, cases)
	}
	var mu sync.Mutex
	var running sync.WaitGroup
	outcomes, free := map[string]error{}, make(chan struct{}, 16) // many of them only wait
	for _, id := range slices.Sorted(maps.Keys(cases)) {
		running.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			err := runCase(c, cases[id])
			mu.Lock()
			defer mu.Unlock()
			outcomes[id] = err
		})
	}
	running.Wait()
	return outcomes
}

// collect numbers cases as h2spec does.
func collect(group *spec.TestGroup, cases map[string]*spec.TestCase) {
	for n, tc := range append(group.Tests, group.StrictTests...) {
		cases[fmt.Sprintf("%s/%d %s", group.ID(), n+1, tc.Desc)] = tc
	}
	for _, g := range group.Groups {
		collect(g, cases)
	}
}

func runCase(c *config.Config, tc *spec.TestCase) error {
	conn, err := spec.Dial(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := tc.Run(c, conn); err != spec.ErrSkipped {
		return err
	}
	return nil
}
