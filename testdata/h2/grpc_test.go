package h2

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"example.com/mitm"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// most is the size of the largest message.
const most = 8 << 20

// lab is a client and a server of the service, with a proxy between them.
type lab struct {
	*grpc.ClientConn
	service *service
	server  *grpc.Server
	hooked  bool
}

// eachWay runs f over TLS and in the clear, with HTTPHooks and without.
func eachWay(t *testing.T, f func(t *testing.T, ctx context.Context, l *lab)) {
	for _, secure := range []bool{true, false} {
		for _, hooked := range []bool{false, true} {
			t.Run(fmt.Sprintf("tls=%v/hooked=%v", secure, hooked), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				f(t, ctx, newLab(t, secure, hooked))
			})
		}
	}
}

func newLab(t *testing.T, secure, hooked bool) *lab {
	l := &lab{service: &service{seen: make(chan metadata.MD, 1000), ended: make(chan error, 1000)}, hooked: hooked}
	cert, originRoots := exampleCert()
	options := []grpc.ServerOption{grpc.MaxRecvMsgSize(most), grpc.MaxSendMsgSize(most)}
	if secure {
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	}
	addr := l.serve(t, options)
	ca, roots := newCA(t)
	p := &mitm.Proxy{CA: ca, OriginTLS: &tls.Config{RootCAs: originRoots}, Dial: dialTo(addr)}
	if hooked {
		p.Hooks = hooks()
	}
	creds := insecure.NewCredentials()
	if secure {
		creds = credentials.NewTLS(&tls.Config{RootCAs: roots})
	}
	conn, err := grpc.NewClient("passthrough:///example.com:443", grpc.WithTransportCredentials(creds), grpc.WithUserAgent("lab"),
		grpc.WithContextDialer(throughProxy(startProxy(t, p))), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most), grpc.MaxCallSendMsgSize(most)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l.ClientConn = conn
	return l
}

func (l *lab) serve(t *testing.T, options []grpc.ServerOption) string {
	l.server = grpc.NewServer(options...)
	l.service.register(l.server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.server.Serve(listener) }()
	t.Cleanup(func() {
		l.server.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return listener.Addr().String()
}

// hooks add a field to every request and every response.
func hooks() []mitm.Hook {
	return []mitm.Hook{
		mitm.OnRequest(func(req *http.Request) (*http.Response, error) {
			if req.ProtoMajor != 2 || req.Header.Get("Content-Type") != "application/grpc" || req.Header.Get("Te") != "trailers" {
				return nil, fmt.Errorf("%s with %v", req.Proto, req.Header)
			}
			req.Header.Set("X-Hook", "request")
			return nil, nil
		}),
		mitm.OnResponse(func(res *http.Response) error {
			if res.ProtoMajor != 2 || res.Header.Get("Content-Type") != "application/grpc" {
				return fmt.Errorf("%s with %v", res.Proto, res.Header)
			}
			res.Header.Set("X-Hook", "response")
			return nil
		}),
	}
}

func (l *lab) call(ctx context.Context, name string, in []byte, options ...grpc.CallOption) ([]byte, error) {
	out := new(bytesValue)
	err := l.Invoke(ctx, method(name), wrapperspb.Bytes(in), out, options...)
	return out.Value, err
}

func first(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Metadata passes in all three places, and hooks take part in it.
func TestUnary(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		var header, trailer metadata.MD
		ctx = metadata.AppendToOutgoingContext(ctx, "x-text", "a", "x-text", "b", "x-data-bin", "\x00\x01\xff")
		got, err := l.call(ctx, "Echo", []byte("hello"), grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || string(got) != "hello" {
			t.Fatalf("%q, %v", got, err)
		}
		seen := receive(t, l.service.seen)
		if fmt.Sprint(seen.Get("x-text")) != "[a b]" || first(seen, "x-data-bin") != "\x00\x01\xff" || first(seen, ":authority") != "example.com:443" {
			t.Errorf("the server saw %v", seen)
		}
		if first(header, "x-header") != "h" || first(header, "x-bin") != "\x00\xff" || first(trailer, "x-trailer") != "t" {
			t.Errorf("header %v, trailer %v", header, trailer)
		}
		if hooked := first(seen, "x-hook") == "request" && first(header, "x-hook") == "response"; hooked != l.hooked {
			t.Errorf("the server saw %v, the client %v", seen, header)
		}
	})
}

// An error passes with its code, message and details.
func TestErrors(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		var trailer metadata.MD
		_, err := l.call(ctx, "Echo", []byte("fail why? 100% \u00fc\n"), grpc.Trailer(&trailer))
		st := status.Convert(err)
		if st.Code() != codes.FailedPrecondition || st.Message() != "why? 100% \u00fc\n" || first(trailer, "x-trailer") != "t" {
			t.Errorf("%v %q, trailer %v", st.Code(), st.Message(), trailer)
		}
		details := st.Details()
		if len(details) != 1 || details[0].(*errdetails.ErrorInfo).Reason != "TEST" {
			t.Errorf("details %v", details)
		}
		if _, err := l.call(ctx, "Missing", nil); status.Code(err) != codes.Unimplemented {
			t.Errorf("no such method: %v", err)
		}
	})
}

func TestClientStreaming(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		stream, err := l.NewStream(ctx, uploads, method("Count"))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 15 {
			if err := stream.SendMsg(wrapperspb.Bytes(make([]byte, n))); err != nil {
				t.Fatal(err)
			}
		}
		stream.CloseSend()
		out := new(bytesValue)
		if err := stream.RecvMsg(out); err != nil || len(out.Value) != 1 || out.Value[0] != 105 {
			t.Errorf("%v, %v", out.Value, err)
		}
	})
}

func TestServerStreaming(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		stream, err := l.NewStream(ctx, downloads, method("Repeat"))
		if err != nil {
			t.Fatal(err)
		}
		stream.SendMsg(wrapperspb.Bytes(make([]byte, 100)))
		stream.CloseSend()
		out := new(bytesValue)
		for n := range 100 {
			if err := stream.RecvMsg(out); err != nil || len(out.Value) != 1 || out.Value[0] != byte(n) {
				t.Fatalf("message %d: %v, %v", n, out.Value, err)
			}
		}
		if err := stream.RecvMsg(out); status.Code(err) != codes.OutOfRange || status.Convert(err).Message() != "that was all" {
			t.Errorf("the end: %v", err)
		}
	})
}

// conversation sends each message after the answer to the one before.
func (l *lab) conversation(ctx context.Context, messages, size int) error {
	stream, err := l.NewStream(ctx, both, method("Talk"))
	if err != nil {
		return err
	}
	out := new(bytesValue)
	for n := range messages {
		want := bytes.Repeat([]byte{byte(n)}, size)
		if err := stream.SendMsg(wrapperspb.Bytes(want)); err != nil {
			return err
		}
		if err := stream.RecvMsg(out); err != nil {
			return fmt.Errorf("message %d: %w", n, err)
		}
		if !bytes.Equal(out.Value, want) {
			return fmt.Errorf("message %d: %d other bytes", n, len(out.Value))
		}
	}
	stream.CloseSend()
	if err := stream.RecvMsg(out); err != io.EOF {
		return fmt.Errorf("the end: %w", err)
	}
	if got := first(stream.Trailer(), "x-trailer"); got != "bye" {
		return fmt.Errorf("trailer %q", got)
	}
	return nil
}

func TestBidirectional(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		if err := l.conversation(ctx, 100, 10); err != nil {
			t.Error(err)
		}
	})
}

func TestConcurrentStreams(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		var streams sync.WaitGroup
		for range 100 {
			streams.Go(func() {
				if err := l.conversation(ctx, 10, 1000); err != nil {
					t.Error(err)
				}
			})
		}
		streams.Wait()
	})
}

func TestLargeMessages(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		large := bytes.Repeat([]byte("0123456789abcdef"), 4<<20/16)
		if got, err := l.call(ctx, "Echo", large); err != nil || !bytes.Equal(got, large) {
			t.Errorf("%d bytes came back, %v", len(got), err)
		}
		if err := l.conversation(ctx, 3, 4<<20); err != nil {
			t.Error(err)
		}
	})
}

// A deadline reaches the server, and so does the client's giving up.
func TestDeadline(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if _, err := l.call(short, "Wait", nil); err == nil { // which side notices first is not sure
			t.Error("the client got an answer")
		}
		if err := receive(t, l.service.ended); err == nil {
			t.Error("the server was not told")
		}
		var header metadata.MD
		if _, err := l.call(ctx, "Echo", nil, grpc.Header(&header)); err != nil || first(header, "x-deadline") == "" {
			t.Errorf("%v, header %v", err, header)
		}
	})
}

func TestCancel(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		short, cancel := context.WithCancel(ctx)
		go func() {
			<-l.service.seen
			cancel()
		}()
		if _, err := l.call(short, "Wait", nil); status.Code(err) != codes.Canceled {
			t.Errorf("the client got %v", err)
		}
		if err := receive(t, l.service.ended); !errors.Is(err, context.Canceled) {
			t.Errorf("the server was told %v", err)
		}
		if err := l.conversation(ctx, 3, 10); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A server that shuts down says GOAWAY: the stream that runs goes on to its end.
func TestGracefulStop(t *testing.T) {
	eachWay(t, func(t *testing.T, ctx context.Context, l *lab) {
		stream, err := l.NewStream(ctx, both, method("Talk"))
		if err != nil {
			t.Fatal(err)
		}
		out, stopped := new(bytesValue), make(chan bool, 1)
		for n := range 100 {
			if n == 50 {
				go func() {
					l.server.GracefulStop()
					stopped <- true
				}()
			}
			stream.SendMsg(wrapperspb.Bytes([]byte{byte(n)}))
			if err := stream.RecvMsg(out); err != nil {
				t.Fatalf("message %d: %v", n, err)
			}
		}
		stream.CloseSend()
		if err := stream.RecvMsg(out); err != io.EOF {
			t.Errorf("the end: %v", err)
		}
		receive(t, stopped)
	})
}
