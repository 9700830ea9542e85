package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// canSquid: it speaks HTTP/1 only.
func canSquid(s *scenario) bool {
	return !s.http2 && !s.hooks && !s.transparent && s.conns <= 128
}

// startSquid starts it without a cache; with ssl-bump where TLS is opened.
func startSquid(ctx context.Context, c *cell) (*proxy, error) {
	port, err := c.site.freePort()
	if err != nil {
		return nil, err
	}
	bump := ""
	if c.scenario.tls {
		if bump, err = c.squidTLS(); err != nil {
			return nil, err
		}
	}
	hosts, err := c.write("hosts", c.hosts())
	if err != nil {
		return nil, err
	}
	listen, rest, _ := strings.Cut(bump, "\n")
	name, err := c.write("squid.conf", fmt.Sprintf(`http_port 127.0.0.1:%d%s
%s
hosts_file %s
http_access allow all
cache deny all
cache_mem 0
sslproxy_session_cache_size 0
access_log none
cache_log %s/log
cache_store_log none
pid_filename none
coredump_dir %s
netdb_filename none
pinger_enable off
shutdown_lifetime 0
max_filedescriptors 16384
via off
forwarded_for delete
%s
`, port, listen, rest, hosts, c.dir, c.dir, squidUser()))
	if err != nil {
		return nil, err
	}
	if err := c.giveAway(); err != nil {
		return nil, err
	}
	return c.startProgram(ctx, port, "-N", "-n", fmt.Sprintf("bench%d", os.Getpid()), "-f", name)
}

// nobody is who squid becomes where this program runs as root.
const nobody = 65534

func squidUser() string {
	u, err := user.LookupId(strconv.Itoa(nobody))
	if os.Geteuid() != 0 || err != nil {
		return ""
	}
	return "cache_effective_user " + u.Username
}

// giveAway makes the files of the cell those of the user that squid becomes.
func (c *cell) giveAway() error {
	if os.Geteuid() != 0 {
		return nil
	}
	return filepath.WalkDir(c.dir, func(path string, _ fs.DirEntry, err error) error {
		return cmpErr(err, os.Chown(path, nobody, -1))
	})
}

// squidTLS returns what follows the port and, from the second line on, other settings.
func (c *cell) squidTLS() (string, error) {
	ca, err := c.write("ca.pem", c.authority.Cert+c.authority.Key)
	if err != nil {
		return "", err
	}
	root, err := c.write("root.pem", c.authority.Cert)
	if err != nil {
		return "", err
	}
	helper := squidHelper()
	db := c.dir + "/leaves"
	if out, err := exec.Command(helper, "-c", "-s", db, "-M", "16MB").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", helper, err, out)
	}
	return fmt.Sprintf(` ssl-bump tls-cert=%s generate-host-certificates=on dynamic_cert_mem_cache_size=16MB
sslcrtd_program %s -s %s -M 16MB
sslcrtd_children 4
tls_outgoing_options cafile=%s
ssl_bump bump all`, ca, helper, db, root), nil
}

func squidHelper() string {
	for _, dir := range []string{"/usr/lib/squid/", "/usr/lib64/squid/", "/usr/libexec/squid/"} {
		if path := program(dir + "security_file_certgen"); path != "" {
			return path
		}
	}
	return "security_file_certgen"
}

// hosts are the names of the origin, for programs that can't be told how to dial. There
// are enough for connections that take some milliseconds each.
func (c *cell) hosts() string {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 %s\n", hostName)
	if c.scenario.fresh {
		for client := range c.scenario.conns {
			for n := range 1000 {
				fmt.Fprintf(&b, "127.0.0.1 %s.%s\n", freshName(client, n), domain)
			}
		}
	}
	return b.String()
}
