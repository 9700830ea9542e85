package mitm_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/mitm"
)

// A destination is refused in the client's protocol, before anything is dialled, and why
// is nothing that the client is told.
func TestConnHookRejects(t *testing.T) {
	secret := errors.New("secret reason")
	for name, answer := range map[string]struct {
		action mitm.Action
		err    error
	}{
		"action": {mitm.Reject, nil},
		"error":  {mitm.Default, secret},
		"both":   {mitm.Tunnel, secret},
	} {
		for _, request := range []string{
			"GET http://origin.test/ HTTP/1.1\r\nHost: x\r\n\r\n",
			"CONNECT origin.test:80 HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			t.Run(name+" "+request[:7], func(t *testing.T) {
				eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
					done, flows := doneHook()
					p.Dial = noDial(t)
					p.Hooks = append(p.Hooks, done, mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) {
						return answer.action, answer.err
					}))
					c := dial(t, start(t, p))
					c.send(request)
					res, body := c.response("GET")
					if res.StatusCode != 403 || strings.Contains(body, "secret") {
						t.Errorf("got %s: %s", res.Status, body)
					}
					c.Close()
					f := nextFlow(t, flows)
					if !errors.Is(f.Err, mitm.ErrRejected) || answer.err != nil && !errors.Is(f.Err, secret) ||
						f.Status != 403 || f.Tunnel || f.Conn.Destination.Addr != "origin.test:80" {
						t.Errorf("error %v, flow %+v", f.Err, f)
					}
				})
			})
		}
	}
}

// Each destination is asked about once on a client connection, CONNECT each time.
func TestConnHookIsAskedOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		first, _ := answering(t, ok200)
		second, _ := answering(t, ok200)
		var mu sync.Mutex
		var asked []string
		p.Hooks = append(p.Hooks, mitm.OnConn(func(ctx context.Context, c *mitm.Conn) (mitm.Action, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, c.Destination.Addr)
			f := mitm.FlowFromContext(ctx)
			if f == nil || f.Conn != c || f.Method != "GET" || !strings.HasPrefix(f.URL, "http://"+c.Destination.Addr) {
				t.Errorf("flow %+v", f)
			}
			if c.RemoteAddr() == nil || c.LocalAddr() == nil || c.NetConn() == nil || c.Protocol != mitm.HTTP1 {
				t.Errorf("conn %+v", c)
			}
			return mitm.Default, nil
		}))
		proxy := start(t, p)
		for range 2 {
			c := dial(t, proxy)
			for _, addr := range []string{first, second, first, second, second} {
				c.send(getRequest(addr))
				c.wantStatus(200)
			}
		}
		if want := []string{first, second, first, second}; !slices.Equal(asked, want) {
			t.Errorf("asked about %q, want %q", asked, want)
		}
	})
}

// The first hook that answers anything but Default decides.
func TestConnHookOrder(t *testing.T) {
	addr, _ := answering(t, ok200)
	var calls []string
	hook := func(name string, action mitm.Action) mitm.Hook {
		return mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) {
			calls = append(calls, name)
			return action, nil
		})
	}
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
		hook("a", mitm.Default), hook("b", mitm.Tunnel), hook("c", mitm.Reject),
	}}))
	c.send(getRequest(addr))
	c.wantStatus(200)
	if want := []string{"a", "b"}; !slices.Equal(calls, want) {
		t.Errorf("called %q, want %q", calls, want)
	}
}

// Tunnel forwards a request in the clear past all HTTPHooks, Default and Intercept do not.
func TestConnHookTunnels(t *testing.T) {
	for action, hooked := range map[mitm.Action]bool{mitm.Default: true, mitm.Intercept: true, mitm.Tunnel: false} {
		addr, heads := answering(t, ok200)
		c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) { req.Header.Set("Hooked", "1"); return nil, nil }),
			mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return action, nil }),
		}}))
		c.send(getRequest(addr))
		c.wantStatus(200)
		if got := strings.Contains(<-heads, "Hooked"); got != hooked {
			t.Errorf("action %d: hooked %v, want %v", action, got, hooked)
		}
		// Inside of a CONNECT only Intercept reads.
		c = dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{
			mitm.OnRequest(func(req *http.Request) (*http.Response, error) { req.Header.Set("Hooked", "1"); return nil, nil }),
			mitm.OnConn(func(context.Context, *mitm.Conn) (mitm.Action, error) { return action, nil }),
		}}))
		c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: x\r\n\r\n")
		c.head()
		c.send("GET / HTTP/1.1\r\nHost: inside\r\n\r\n")
		c.wantStatus(200)
		if got, want := strings.Contains(<-heads, "Hooked"), action == mitm.Intercept; got != want {
			t.Errorf("action %d in a tunnel: hooked %v, want %v", action, got, want)
		}
	}
}

// A changed Destination is where the connection goes; nothing is dialled before.
func TestConnHookRedirects(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, heads := answering(t, ok200)
		p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			if c.Destination.Addr != "nowhere.invalid:80" {
				t.Errorf("asked about %q", c.Destination.Addr)
			}
			c.Destination.Addr = addr
			return mitm.Default, nil
		}))
		proxy := start(t, p)
		c := dial(t, proxy)
		for range 2 {
			c.send(getRequest("nowhere.invalid"))
			c.wantStatus(200)
			if got, want := <-heads, "GET / HTTP/1.1\r\nHost: nowhere.invalid\r\n\r\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		c = dial(t, proxy)
		c.send("CONNECT nowhere.invalid:80 HTTP/1.1\r\nHost: x\r\n\r\n")
		c.head()
		c.send("GET / HTTP/1.1\r\nHost: inside\r\n\r\n")
		c.wantStatus(200)
		if got, want := <-heads, "GET / HTTP/1.1\r\nHost: inside\r\n\r\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// A Host that a hook gives is the Host field, whatever the client wrote.
func TestConnHookSetsHost(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, heads := answering(t, ok200)
		p.Hooks = append(p.Hooks, mitm.OnConn(func(_ context.Context, c *mitm.Conn) (mitm.Action, error) {
			c.Destination.Host = "given.test"
			return mitm.Default, nil
		}))
		c := dial(t, start(t, p))
		for range 2 {
			c.send(getRequest(addr))
			c.wantStatus(200)
			if got, want := <-heads, "GET / HTTP/1.1\r\nHost: given.test\r\n\r\n"; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// FlowFromContext finds the same flow in every hook, and none elsewhere.
func TestFlowFromContext(t *testing.T) {
	addr, _ := answering(t, ok200)
	var flows []*mitm.Flow
	see := func(ctx context.Context) { flows = append(flows, mitm.FlowFromContext(ctx)) }
	done, ended := doneHook()
	c := dial(t, start(t, &mitm.Proxy{Hooks: []mitm.Hook{done,
		mitm.OnConn(func(ctx context.Context, _ *mitm.Conn) (mitm.Action, error) { see(ctx); return mitm.Default, nil }),
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) { see(req.Context()); return nil, nil }),
		mitm.OnResponse(func(res *http.Response) error { see(res.Request.Context()); return nil }),
	}}))
	c.send(getRequest(addr))
	c.wantStatus(200)
	f := nextFlow(t, ended)
	if want := []*mitm.Flow{f, f, f}; !slices.Equal(flows, want) {
		t.Errorf("flows %v, want %v", flows, want)
	}
	if mitm.FlowFromContext(t.Context()) != nil {
		t.Error("a flow from nowhere")
	}
}
