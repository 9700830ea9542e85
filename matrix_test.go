package mitm_test

import (
	"net/http"
	"net/url"
	"testing"

	"example.com/mitm"
)

// eachEngine runs f with a new Proxy for each of the two ways that an exchange can take
// through it: without hooks, and with one that changes nothing.
func eachEngine(t *testing.T, f func(t *testing.T, p *mitm.Proxy)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { f(t, &mitm.Proxy{}) })
	t.Run("hooked", func(t *testing.T) { f(t, &mitm.Proxy{Hooks: []mitm.Hook{noChange()}}) })
}

// noChange is an HTTPHook that leaves everything as it is.
func noChange() mitm.Hook {
	return mitm.OnRequest(func(*http.Request) (*http.Response, error) { return nil, nil })
}

// reverseTo is the mode of a proxy for the plain origin at addr.
func reverseTo(addr string) mitm.Mode {
	return mitm.Reverse{Target: &url.URL{Scheme: "http", Host: addr}}
}
