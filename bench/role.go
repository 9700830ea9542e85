package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// roleArgument is the first argument of processes that this program starts of itself, the
// second is one of the roles.
const roleArgument = "role"

// roles are what a process can be. It talks to the one that started it by control, and ends
// when that ends.
var roles = map[string]func(c *control) error{
	"origin":       originRole,
	"load":         loadRole,
	"mitm":         mitmRole,
	"goproxy":      goproxyRole,
	"martian":      martianRole,
	"go-mitmproxy": goMitmproxyRole,
}

func playRole(name string) {
	role, ok := roles[name]
	if !ok {
		fmt.Fprintln(os.Stderr, "bench: no role", name)
		os.Exit(2)
	}
	err := role(newControl(os.Stdin, os.Stdout))
	if err != nil && err != io.EOF {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// control is a conversation of JSON values. Receive returns io.EOF when the other side has
// ended.
type control struct {
	in  *json.Decoder
	out *json.Encoder
}

func newControl(r io.Reader, w io.Writer) *control {
	return &control{json.NewDecoder(r), json.NewEncoder(w)}
}

func (c *control) receive(v any) error { return c.in.Decode(v) }

func (c *control) send(v any) error { return c.out.Encode(v) }
