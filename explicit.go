package mitm

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
)

// Explicit is the mode for clients that know the proxy, and the default. They send HTTP requests
// with an absolute-form target, or CONNECT (RFC 9112, section 3.2), or speak SOCKS5 (RFC 1928): all
// on one port, told apart by the first byte. SOCKS4 is refused in its own protocol, and a client
// whose first byte can't begin a request line is refused with 400 (Bad Request) at once. So is a
// TLS client, which then reports that it was sent HTTP. For an https proxy, serve a
// [crypto/tls.NewListener].
type Explicit struct {
	// Authenticate, if not nil, is asked for every HTTP request and CONNECT with the credentials of
	// its Proxy-Authorization field (RFC 7617, decoded, passwords may hold colons and UTF-8), and
	// once for every SOCKS5 connection (RFC 1929). An error refuses: HTTP clients are sent 407
	// (Proxy Authentication Required), SOCKS5 clients status 1. It is not called for a client that
	// sends no credentials; that is refused. It may be called by several goroutines at once.
	// Credentials are never sent on and never logged. Those inside a tunnel, or set by a hook, are
	// meant for another proxy and are sent on. Nil: nobody needs any. See [Passwords].
	Authenticate func(ctx context.Context, user, password string) error
	// Host, if not empty, is a host name, without a port, that the proxy serves pages of its own
	// for, over http and https: no origin is dialled for it and no hook but a [DoneHook] is called.
	// Whoever can use the proxy can read them. Choose one that can't exist, such as mitm.invalid.
	Host string
	// Handler serves those pages. Nil: the certificate of [Proxy.CA] at /cert.pem and
	// /cert.der, and at / how to trust it.
	Handler http.Handler
}

// Passwords returns a function for [Explicit.Authenticate] that knows the given users and
// their passwords, of which it keeps a copy. It takes the same time for every wrong answer.
func Passwords(users map[string]string) func(ctx context.Context, user, password string) error {
	known := make(map[string][sha256.Size]byte, len(users))
	for user, password := range users {
		known[user] = sha256.Sum256([]byte(password))
	}
	return func(_ context.Context, user, password string) error {
		want, ok := known[user]
		got := sha256.Sum256([]byte(password))
		if subtle.ConstantTimeCompare(want[:], got[:]) != 1 || !ok {
			return ErrCredentials
		}
		return nil
	}
}

// Destination implements Mode. HTTP requests name their own destination; for SOCKS5 the
// negotiation happens here.
func (e Explicit) Destination(ctx context.Context, c *Conn) (Destination, error) {
	first, err := c.Peek(1)
	if err != nil {
		return Destination{}, err
	}
	switch first[0] {
	case socks5Version:
		d, err := e.socks5(ctx, c)
		if err != nil {
			c.s.linger() // the client is to read why
		}
		return d, clientGone(err)
	case socks4Version:
		c.Write(appendSOCKS4Refusal(nil))
		c.s.linger()
		return Destination{}, errSOCKSVersion
	}
	d := Destination{pages: ownPages{e.Host, e.Handler}}
	if e.Authenticate != nil {
		d.authenticate = e.authenticate
	}
	return d, nil
}

// check implements modeChecker.
func (e Explicit) check() error {
	if e.Host != "" && !validAuthority([]byte(e.Host)) || strings.Contains(e.Host, ":") {
		return fmt.Errorf("mitm: Explicit.Host %q is not a host name", e.Host)
	}
	return nil
}

// authenticate asks about the value of a Proxy-Authorization field (RFC 7617, section 2).
func (e Explicit) authenticate(ctx context.Context, credentials string) error {
	user, password, ok := parseBasic(credentials)
	if !ok {
		return ErrCredentials
	}
	return refusal(e.Authenticate(ctx, user, password))
}

func parseBasic(credentials string) (user, password string, ok bool) {
	scheme, encoded, _ := strings.Cut(credentials, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimLeft(encoded, " "))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(plain), ":")
}

// refusal makes ErrCredentials of whatever an Authenticate returned.
func refusal(err error) error {
	if err == nil || errors.Is(err, ErrCredentials) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCredentials, err)
}

// socks5 is the server's side of a negotiation up to the request. What comes after the
// request stays in c.
func (e Explicit) socks5(ctx context.Context, c *Conn) (d Destination, err error) {
	var methods []byte
	err = c.parse(func(b []byte) (n int, err error) {
		methods, n, err = parseSOCKSGreeting(b)
		return n, err
	})
	if err != nil {
		return d, err
	}
	method := chooseSOCKSMethod(methods, e.Authenticate != nil)
	if _, err := c.Write([]byte{socks5Version, method}); err != nil {
		return d, err
	}
	switch method {
	case socksNoAcceptable:
		return d, errSOCKSMethods
	case socksPassword:
		if err := e.socksPassword(ctx, c); err != nil {
			return d, err
		}
	}
	err = c.parse(func(b []byte) (n int, err error) {
		d.Addr, n, err = parseSOCKSRequest(b)
		return n, err
	})
	if err != nil {
		c.Write(appendSOCKSReply(nil, socksReplyTo(err)))
		return Destination{}, err
	}
	d.named, d.pages = nameOf(d.Addr), ownPages{e.Host, e.Handler}
	d.Reply = func(dialErr error) error {
		_, err := c.Write(appendSOCKSReply(nil, socksReplyTo(dialErr)))
		return err
	}
	return d, nil
}

// socksPassword is RFC 1929: any status but 0 ends the connection.
func (e Explicit) socksPassword(ctx context.Context, c *Conn) error {
	var user, password string
	err := c.parse(func(b []byte) (int, error) {
		u, p, n, err := parseSOCKSPassword(b)
		user, password = string(u), string(p)
		return n, err
	})
	if err == nil {
		err = refusal(e.Authenticate(ctx, user, password))
	}
	status := byte(0)
	if err != nil {
		status = 1
	}
	c.isOwn = func(credentials string) bool {
		u, p, ok := parseBasic(credentials)
		return ok && u+":"+p == user+":"+password
	}
	if _, writeErr := c.Write([]byte{socksAuthTry, status}); err == nil {
		err = writeErr
	}
	return err
}

// socksReplyTo tells a SOCKS client how a request or a dial went.
func socksReplyTo(err error) socksReply {
	var dns *net.DNSError
	var errno syscall.Errno
	switch {
	case err == nil:
		return socksSucceeded
	case errors.Is(err, errSOCKSCommand):
		return socksCommandUnsupported
	case errors.Is(err, errSOCKSAddress):
		return socksAddressUnsupported
	case errors.Is(err, ErrRejected):
		return socksNotAllowed
	case errors.As(err, &dns):
		return socksHostUnreachable
	}
	if errors.As(err, &errno) {
		if code, ok := socksErrnos[errno]; ok {
			return code
		}
	}
	if isTimeout(err) {
		return socksTTLExpired
	}
	return socksGeneralFailure
}
