package mitm_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"example.com/mitm"
)

// What hooks keep stays as it was when other exchanges use the memory of the engine again.
func TestHookKeepsMessages(t *testing.T) {
	const exchanges, fields = 3, 20 // more fields than hookedExchange has room for, and fewer
	type kept struct {
		req  *http.Request
		res  *http.Response
		flow *mitm.Flow
		want string
	}
	show := func(k kept) string {
		return fmt.Sprint(k.req.Method, k.req.URL, k.req.Host, k.req.Header, k.res.Status, k.res.Header,
			k.flow.URL, k.flow.RequestFields, k.flow.ResponseFields, mitm.FlowFromContext(k.req.Context()) == k.flow)
	}
	var all []kept
	addr := origin(t, func(c *peer) {
		for i := range exchanges {
			c.head()
			c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nanswer-%d: a%d\r\nX: %d\r\n\r\n", i, i, i))
		}
	})
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{mitm.OnResponse(func(res *http.Response) error {
		k := kept{req: res.Request, res: res, flow: mitm.FlowFromContext(res.Request.Context())}
		k.want = show(k)
		all = append(all, k)
		return nil
	})}}))
	for i := range exchanges {
		var request strings.Builder
		fmt.Fprintf(&request, "GET http://%s/path%d HTTP/1.1\r\nHost: %s\r\n", addr, i, addr)
		for n := range fields * i {
			fmt.Fprintf(&request, "name-%d-%d: value %d %d\r\n", i, n, i, n)
		}
		c.send(request.String() + "\r\n")
		c.response("GET")
	}
	if len(all) != exchanges {
		t.Fatalf("%d exchanges", len(all))
	}
	for i, k := range all {
		if got := show(k); got != k.want {
			t.Errorf("exchange %d was\n%s\nand is\n%s", i, k.want, got)
		}
	}
}

// Lists that the engine has made in one piece are apart for who appends to them.
func TestHookAppends(t *testing.T) {
	var names []string
	head, _ := asked(t, "GET http://ADDR/ HTTP/1.1\r\nHost: ADDR\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n", func(req *http.Request) {
		req.Header.Add("A", "1a")
		req.Header.Add("B", "2b")
		flow := mitm.FlowFromContext(req.Context())
		flow.RequestFields = append(flow.RequestFields, "b", "A", "none", "none")
		names = slices.Clone(flow.RequestFields)
		if got := req.Header["C"]; !slices.Equal(got, []string{"3"}) {
			t.Errorf("C is %q", got)
		}
	})
	if want := "GET / HTTP/1.1\r\nHost: ADDR\r\nA: 1\r\nB: 2\r\nC: 3\r\nb: 2b\r\nA: 1a\r\n\r\n"; head != want {
		t.Errorf("sent %q, want %q", head, want)
	}
	if want := []string{"Host", "A", "B", "C", "b", "A", "none", "none"}; !slices.Equal(names, want) {
		t.Errorf("names are %q", names)
	}
}
