package mitm

import (
	"net/http"
	"testing"
)

// As long as :scheme is not known, no request is taken for one that may leave in the clear.
func TestCheckScheme(t *testing.T) {
	named, fixed := &client{}, &client{fixed: &route{}}
	for _, test := range []struct {
		c      *client
		method string
		told   bool
		want   error
	}{
		{named, "GET", false, errNoScheme},
		{named, "GET", true, nil},
		{named, "CONNECT", false, nil},
		{fixed, "GET", false, nil},
	} {
		x := &http2Exchange{routed: routed{client: test.c}, req: &http.Request{Method: test.method}, schemeTold: test.told}
		if err := x.checkScheme(); err != test.want {
			t.Errorf("%s, told %v: %v, want %v", test.method, test.told, err, test.want)
		}
	}
}
