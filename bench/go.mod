module example.com/mitm/bench

go 1.26.0

require (
	example.com/mitm v0.0.0
	github.com/elazarl/goproxy v1.9.2
	github.com/google/martian/v3 v3.3.3
	github.com/lqqyt2423/go-mitmproxy v1.9.2
	github.com/sirupsen/logrus v1.9.4
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

require (
	github.com/andybalholm/brotli v1.2.1 // indirect
	github.com/golang/groupcache v0.0.0-20210331224755-41bb18bfe9da // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/klauspost/compress v1.18.6 // indirect
	github.com/kr/pretty v0.3.1 // indirect
	github.com/satori/go.uuid v1.2.0 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)

replace example.com/mitm => ..
