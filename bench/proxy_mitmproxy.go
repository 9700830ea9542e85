package main

import (
	"context"
	"fmt"
)

// canMitmproxy leaves out what would take it minutes, and events, which it keeps back until
// they have all come.
func canMitmproxy(s *scenario) bool {
	return !s.raw() && s.kind != events && !s.hooks && !s.transparent && s.conns <= 16
}

// mitmproxyAddon leads all names to the origin.
const mitmproxyAddon = `def server_connect(data):
    data.server.address = ("127.0.0.1", data.server.address[1])
`

func startMitmproxy(ctx context.Context, c *cell) (*proxy, error) {
	port, err := c.site.freePort()
	if err != nil {
		return nil, err
	}
	_, err1 := c.write("mitmproxy-ca.pem", c.authority.Key+c.authority.Cert)
	root, err2 := c.write("root.pem", c.authority.Cert)
	addon, err3 := c.write("addon.py", mitmproxyAddon)
	if err := cmpErr(err1, err2, err3); err != nil {
		return nil, err
	}
	args := []string{"-q", "--listen-host", "127.0.0.1", "-p", fmt.Sprint(port), "-s", addon}
	for _, option := range []string{"confdir=" + c.dir, "ssl_verify_upstream_trusted_ca=" + root, "stream_large_bodies=512k", "flow_detail=0"} {
		args = append(args, "--set", option)
	}
	return c.startProgram(ctx, port, args...)
}
