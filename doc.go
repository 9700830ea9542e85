/*
Package mitm stands between clients and origin servers: to see what passes, to change
it, to answer for the other side, or to let it through untouched.

A [Proxy] serves connections. Of each it has to find out two things, and keeps them
apart: where the client wants to go, which is the job of its [Mode], and what the bytes
are, which is the same in every mode. Then hooks decide and change, see [Hook].

# The path of a connection

A connection takes these steps in this order; what is inside a CONNECT, a SOCKS5 tunnel or TLS goes
through them again, from sniff on. Each step is a file, or a few.

	accept    proxy.go      listeners, limits, shutdown; defaults.go: what zero values mean
	mode      mode.go       where does the client want to go? Explicit: explicit.go, on top of
	                        socks5.go; Transparent: transparent.go, on top of origdst_linux.go;
	                        Reverse: reverse.go
	serve     conn.go       one client connection, from its mode to its end
	sniff     sniff.go      the first bytes of either side, where the protocol is not known;
	                        classify.go: which protocol they are; early.go: the origin that is
	                        dialled meanwhile
	decide    hook.go       what embedders plug in. ConnHooks are called for a destination by serve,
	                        again by sniff once the protocol is known, and by exchange for each
	                        destination that a request names. flow.go: what hooks can see of an
	                        exchange or tunnel; refuse.go: a hook that refuses what others could
	                        not read
	tls       intercept.go  the client's TLS is terminated with the ClientHello in hand; then sniff
	                        again. clienthello.go: a ClientHello that crypto/tls refuses;
	                        clienttls.go: what all of these connections share; ca.go and leaf.go:
	                        the certificates (leafkeys.go, leafconstraints.go, leafcache.go,
	                        cadir.go; cawarnings.go: what clients may not like); choice.go: what
	                        origins negotiated before (memory.go: for how long, and how much of
	                        it); refusal.go and distrust.go: clients that refuse our certificate
	exchange  target.go     what requests of both versions have in common; route.go: where one goes
	          http1.go      one HTTP/1 request and its response; answer.go: how it ends; connect.go:
	                        CONNECT, 101 and TRACE; nested.go: requests to another proxy
	          http2.go      an HTTP/2 connection, by net/http; http2exchange.go: one stream of it,
	                        with http2forward.go and http2tunnel.go (CONNECT); http2fields.go:
	                        which fields HTTP/2 can carry; http2scheme.go: what :scheme means;
	                        http2flush.go: when content is sent
	trip      trip.go       a request on its way to an origin and the response back; origins.go: the
	                        origin connections of a client; watch.go: is the client still there?
	                        clock.go: does content move, either way?
	origin    dial.go       connecting; pool.go: idle connections (park_linux.go: those that end);
	                        loop.go and guard.go: connections to oneself; tls.go: TLS to an origin
	                        (keylength.go: its certificate's keys; verified.go: the name that it is
	                        verified for); http2origin.go: HTTP/2 connections (http2silence.go: are
	                        they still there?); http2trip.go: requests on them; http2still.go:
	                        content that stalls; sockopt_linux.go: socket options;
	                        handler.go: an http.Handler in place of an origin (pages.go: the
	                        proxy's own)
	relay     relay.go      bytes both ways, unread
	errors    error.go      what a step that failed is called, and what its client is sent

The exchange has two ways. Without an [HTTPHook], between HTTP/1 and HTTP/1, the head is rewritten
where it was read (rewrite.go) and no http.Request is built. With hooks, and where either side may
speak HTTP/2, hooked.go calls them and hookedtrip.go is what they call at the end of the chain
(earlyanswer.go: content that goes on after its response); incoming.go builds what they see
(hookedbody.go: the client's content), outgoing.go and hookcontent.go make messages of what they
leave, with bridge.go between heads and http.Header, and rewritten by the same code.

Below are the parsers, which know nothing of the rest: requestline.go, header.go and framing.go
(which decides where a message ends). body.go (content, decoded) and send.go (content, encoded;
content.go if a hook made it) work on stream.go, a connection with a buffer that exists only while
it holds bytes (streamend.go: how it ends; buffer.go: where buffers come from; socket.go: the bytes
of a socket). capabilities.go finds out what a connection can do, and pump.go makes up for missing
deadlines and buffers. tlsstream.go is a stream over TLS, tlssocket.go what TLS runs on, where a
ClientHello can be read without consuming it; streamconn.go is a stream for HTTP/2, where batch.go
joins frames that are written at the same time. alarm.go has timers that can be waited for.

Systems differ in errno_windows.go, errno_other.go, origdst_other.go, park_other.go,
socket_linux.go, socket_unix.go, socket_syscall.go, socket_other.go, sockopt_other.go,
stream_unix.go and stream_other.go.

# TLS

With a [CA], a client's TLS is terminated unless a [ConnHook] answers [Tunnel]. The origin is
dialled while the client is being read, unless the [Destination] says otherwise. The handshake with
the origin has the server name and the protocols (ALPN) of the client's ClientHello, and the client
is given the protocol that the origin chose. The origin's certificate is verified. If that fails, or
the dial does, the client gets a 502 inside TLS; hooks that answer by themselves never notice. What
is tunnelled reaches the origin byte for byte, ClientHello included.

HTTP/2 is read and written by net/http, on both legs. Streams of a client become exchanges that
hooks see like those of HTTP/1, and leave by HTTP/2 or HTTP/1, as the origin chose. HTTP/2 has no
spelling of field names, and net/http keeps no order: [Flow.RequestFields] is nil there. What
net/http does not report is not passed on: the code of a reset (the other side sees INTERNAL_ERROR,
CANCEL or, before a response, a 502), and trailer fields of a request that were not announced. For
an HTTP/2 client the end of a response is the end of its request, too. A tunnel inside an HTTP/2
stream ends as a whole when its origin ends.

# What is changed on the way

Field order, spelling and duplicates, the path and query, content, its compression, status
and trailers pass as they are, with hooks and without. Changed is what RFC 9110 and RFC 9112
demand of an intermediary: the form of the request target, the Host field where the target
names a host, fields that concern one hop only, framing that could be read in two ways (it is
refused), and a Date where a response has none. See CONTRIBUTING.md for the rules and
the test of each.
*/
package mitm
