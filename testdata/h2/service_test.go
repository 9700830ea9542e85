package h2

import (
	"context"
	"io"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// service is a gRPC service, described by hand.
type service struct {
	seen  chan metadata.MD // of every call of Echo
	ended chan error       // the context's error at the end of every call of Wait
}

const serviceName = "mitm.test.Service"

func method(name string) string { return "/" + serviceName + "/" + name }

// Kinds of streams, as the client sees them.
var (
	uploads   = &grpc.StreamDesc{ClientStreams: true}
	downloads = &grpc.StreamDesc{ServerStreams: true}
	both      = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
)

func (s *service) register(r grpc.ServiceRegistrar) {
	stream := func(name string, desc *grpc.StreamDesc, handler func(grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{
			StreamName: name, ClientStreams: desc.ClientStreams, ServerStreams: desc.ServerStreams,
			Handler: func(_ any, stream grpc.ServerStream) error { return handler(stream) },
		}
	}
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "Echo", Handler: unary(s.echo)},
			{MethodName: "Wait", Handler: unary(s.wait)},
		},
		Streams: []grpc.StreamDesc{
			stream("Count", uploads, count), stream("Repeat", downloads, repeat), stream("Talk", both, talk),
		},
	}, s)
}

type bytesValue = wrapperspb.BytesValue

func unary(call func(context.Context, *bytesValue) (*bytesValue, error)) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(bytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		return call(ctx, in)
	}
}

// echo answers with what it got, in a header and a trailer too; what begins with "fail " is
// an error with details.
func (s *service) echo(ctx context.Context, in *bytesValue) (*bytesValue, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.seen <- md
	if deadline, ok := ctx.Deadline(); ok {
		grpc.SetHeader(ctx, metadata.Pairs("x-deadline", deadline.String()))
	}
	grpc.SetHeader(ctx, metadata.Pairs("x-header", "h", "x-bin", "\x00\xff"))
	grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
	if text, failed := strings.CutPrefix(string(in.Value), "fail "); failed {
		st, err := status.New(codes.FailedPrecondition, text).WithDetails(&errdetails.ErrorInfo{Reason: "TEST", Domain: "mitm"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	}
	return in, nil
}

// wait waits until nobody wants the answer any more.
func (s *service) wait(ctx context.Context, _ *bytesValue) (*bytesValue, error) {
	s.seen <- nil
	<-ctx.Done()
	s.ended <- ctx.Err()
	return nil, ctx.Err()
}

// count reads to the end and answers with how much came.
func count(stream grpc.ServerStream) error {
	n := 0
	for {
		in := new(bytesValue)
		err := stream.RecvMsg(in)
		if err == io.EOF {
			return stream.SendMsg(wrapperspb.Bytes([]byte{byte(n)}))
		}
		if err != nil {
			return err
		}
		n += len(in.Value)
	}
}

// repeat answers with as many messages as the one it got is long.
func repeat(stream grpc.ServerStream) error {
	in := new(bytesValue)
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	for n := range in.Value {
		if err := stream.SendMsg(wrapperspb.Bytes([]byte{byte(n)})); err != nil {
			return err
		}
	}
	return status.Error(codes.OutOfRange, "that was all")
}

// talk answers each message before it reads the next one.
func talk(stream grpc.ServerStream) error {
	for {
		in := new(bytesValue)
		if err := stream.RecvMsg(in); err == io.EOF {
			stream.SetTrailer(metadata.Pairs("x-trailer", "bye"))
			return nil
		} else if err != nil {
			return err
		}
		if err := stream.SendMsg(in); err != nil {
			return err
		}
	}
}
