package mitm

import "net"

// What the types of the package are made to be.
var (
	_ ConnHook    = connFunc(nil)
	_ HTTPHook    = requestFunc(nil)
	_ HTTPHook    = responseFunc(nil)
	_ MessageHook = messageFunc(nil)
	_ DoneHook    = doneFunc(nil)
	_ Mode        = Explicit{}
	_ Mode        = Reverse{}
	_ modeChecker = Reverse{}
	_ source      = (*body)(nil)
	_ source      = (*readerSource)(nil)
	_ net.Conn    = bodyConn{}
)
