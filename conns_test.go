package mitm_test

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// connKind is a kind of connection that a listener or a Dial may give to the proxy.
type connKind struct {
	name string
	// pair returns a new connection: the end that the proxy gets, and that of the client or the origin.
	pair func(t *testing.T) (ours, theirs net.Conn)
	// halfCloses reports whether the proxy can end its sending side alone.
	halfCloses bool
}

var connKinds = []connKind{
	{"TCP", tcpPair, true},
	{"unix", unixPair, true},
	{"net.Pipe", pipePair, false},
	{"memory", bufferedPair, true},
	{"wrapped", wrapPair(tcpPair, func(nc net.Conn) net.Conn { return wrapper{nc} }), false},
	{"wrapped, unwrappable", wrapPair(tcpPair, func(nc net.Conn) net.Conn { return unwrappable{nc} }), true},
	{"CloseWrite unsupported", wrapPair(tcpPair, func(nc net.Conn) net.Conn { return noCloseWrite{nc} }), false},
	{"deadlines refused", wrapPair(bufferedPair, func(nc net.Conn) net.Conn { return refusesDeadlines{nc.(*memConn)} }), true},
	{"deadlines ignored", wrapPair(bufferedPair, func(nc net.Conn) net.Conn { return ignoresDeadlines{nc.(*memConn)} }), true},
	{"deadlines ignored, no CloseWrite", wrapPair(bufferedPair, func(nc net.Conn) net.Conn { return wrapper{ignoresDeadlines{nc.(*memConn)}} }), false},
	{"no addresses", wrapPair(tcpPair, func(nc net.Conn) net.Conn { return noAddrs{nc.(*net.TCPConn)} }), true},
	{"TLS", tlsOver(tcpPair), true},
	{"TLS over net.Pipe", tlsOver(pipePair), true},
	{"TLS, deadlines ignored", tlsOver(wrapPair(bufferedPair, func(nc net.Conn) net.Conn { return ignoresDeadlines{nc.(*memConn)} })), true},
	{"TLS, wrapped", wrapPair(tlsOver(tcpPair), func(nc net.Conn) net.Conn { return wrapper{nc} }), false},
}

func eachConnKind(t *testing.T, f func(t *testing.T, k connKind)) {
	t.Helper()
	for _, k := range connKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			f(t, k)
		})
	}
}

func wrapPair(pair func(t *testing.T) (ours, theirs net.Conn), wrap func(net.Conn) net.Conn) func(t *testing.T) (ours, theirs net.Conn) {
	return func(t *testing.T) (net.Conn, net.Conn) {
		ours, theirs := pair(t)
		return wrap(ours), theirs
	}
}

// wrapper has the methods of a net.Conn and no others, as what limits or counts connections.
type wrapper struct{ net.Conn }

// unwrappable is a wrapper that tells what it wraps.
type unwrappable struct{ net.Conn }

func (c unwrappable) NetConn() net.Conn { return c.Conn }

// noCloseWrite has a CloseWrite that says that there is none.
type noCloseWrite struct{ net.Conn }

func (noCloseWrite) CloseWrite() error { return errors.ErrUnsupported }

// refusesDeadlines is as a channel of an SSH connection.
type refusesDeadlines struct{ *memConn }

var errDeadlines = errors.New("deadline not supported")

func (refusesDeadlines) SetDeadline(time.Time) error      { return errDeadlines }
func (refusesDeadlines) SetReadDeadline(time.Time) error  { return errDeadlines }
func (refusesDeadlines) SetWriteDeadline(time.Time) error { return errDeadlines }

// ignoresDeadlines does not even say so.
type ignoresDeadlines struct{ *memConn }

func (ignoresDeadlines) SetDeadline(time.Time) error      { return nil }
func (ignoresDeadlines) SetReadDeadline(time.Time) error  { return nil }
func (ignoresDeadlines) SetWriteDeadline(time.Time) error { return nil }

// noAddrs does not know where it is.
type noAddrs struct{ *net.TCPConn }

func (noAddrs) LocalAddr() net.Addr  { return nil }
func (noAddrs) RemoteAddr() net.Addr { return nil }

func bufferedPair(*testing.T) (ours, theirs net.Conn) { return memPipe() }

func pipePair(*testing.T) (ours, theirs net.Conn) { return net.Pipe() }

func tcpPair(t *testing.T) (ours, theirs net.Conn) { return socketPair(t, "tcp", "127.0.0.1:0") }

func unixPair(t *testing.T) (ours, theirs net.Conn) {
	dir, err := os.MkdirTemp("", "mitm") // t.TempDir may be too long for an address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return socketPair(t, "unix", filepath.Join(dir, "s"))
}

func socketPair(t *testing.T, network, addr string) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// tlsOver is TLS that the embedder has put around the connections of pair.
func tlsOver(pair func(t *testing.T) (ours, theirs net.Conn)) func(t *testing.T) (ours, theirs net.Conn) {
	return func(t *testing.T) (net.Conn, net.Conn) {
		cert := newIssuer(t, "pair").leaf("pair.test", newKey(t), nil)
		ours, theirs := pair(t)
		return tls.Server(ours, &tls.Config{Certificates: []tls.Certificate{cert}}), tls.Client(theirs, &tls.Config{InsecureSkipVerify: true})
	}
}

// endSending ends the sending side of nc alone, if it has a way to.
func endSending(nc net.Conn) (ended bool) {
	half, ok := nc.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}
