package main

import (
	"context"
	"fmt"
	"strings"
)

// canNginx: it knows one origin and one certificate, and has no HTTP/2 towards origins.
func canNginx(s *scenario) bool {
	return !s.fresh && !s.raw() && !s.http2 && !s.transparent && !s.tunnelHook
}

// startNginx starts it as a reverse proxy with kept-alive connections and no files.
func startNginx(ctx context.Context, c *cell) (*proxy, error) {
	port, err := c.site.freePort()
	if err != nil {
		return nil, err
	}
	scheme, ssl, more := "http", "", ""
	if c.scenario.tls {
		if more, err = c.nginxTLS(); err != nil {
			return nil, err
		}
		scheme, ssl = "https", " ssl"
	}
	if c.scenario.hooks {
		more += "proxy_set_header X-Request 1;\nadd_header X-Response 1;\n"
	}
	name, err := c.write("nginx.conf", fmt.Sprintf(nginxConfig, c.workers(), c.dir, c.dir,
		loopback(c.originPort()), strings.ReplaceAll(nginxPaths, "DIR", c.dir), port, ssl, more, scheme))
	if err != nil {
		return nil, err
	}
	return c.startProgram(ctx, port, "-e", c.dir+"/error.log", "-p", c.dir, "-c", name)
}

// workers is as many as a Go program would use.
func (c *cell) workers() string {
	if c.scenario.pinned {
		return "1"
	}
	return "auto"
}

const nginxConfig = `daemon off;
worker_processes %s;
worker_rlimit_nofile 16384;
pid %s/pid;
error_log %s/error.log crit;
events { worker_connections 8192; }
http {
access_log off;
keepalive_requests 1000000000;
keepalive_timeout 10m;
proxy_buffering off;
proxy_request_buffering off;
upstream origin { server %s; keepalive 4096; keepalive_requests 1000000000; }
%s
server {
listen 127.0.0.1:%d%s backlog=4096;
%s
location / { proxy_pass %s://origin; proxy_http_version 1.1; proxy_set_header Connection ""; }
}
}
`

const nginxPaths = `client_body_temp_path DIR/body;
proxy_temp_path DIR/proxy;
fastcgi_temp_path DIR/fastcgi;
uwsgi_temp_path DIR/uwsgi;
scgi_temp_path DIR/scgi;`

func (c *cell) nginxTLS() (string, error) {
	certificate, err1 := c.write("leaf.pem", c.authority.Origin.Cert)
	key, err2 := c.write("leaf.key", c.authority.Origin.Key)
	root, err3 := c.write("root.pem", c.authority.Cert)
	return fmt.Sprintf(`ssl_certificate %s;
ssl_certificate_key %s;
proxy_ssl_trusted_certificate %s;
proxy_ssl_verify on;
proxy_ssl_name %s;
proxy_ssl_server_name on;
`, certificate, key, root, hostName), cmpErr(err1, err2, err3)
}
