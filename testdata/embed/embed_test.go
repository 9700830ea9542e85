package embed

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

func TestRecord(t *testing.T) {
	origin := httptest.NewServer(http.NotFoundHandler())
	defer origin.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 1)
	defer Record(l, func(url string) { seen <- url }).Close()

	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()})}
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport}).Get(origin.URL + "/page")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got := <-seen; res.StatusCode != 404 || got != origin.URL+"/page" {
		t.Errorf("status %d, saw %s", res.StatusCode, got)
	}
}
