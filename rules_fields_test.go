package mitm_test

import (
	"fmt"
	"strings"
	"testing"

	"example.com/mitm"
)

// Rules about the fields of requests. get returns a request with the given field lines
// for the origin, and as it arrives there.
func get(fields string) (sent, received string) {
	return "GET http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n" + fields + "\r\n", "GET / HTTP/1.1\r\nHost: ORIGIN\r\n" + fields + "\r\n"
}

// fieldTable runs GET requests with the first string of each pair as their fields; the
// second is what arrives.
func fieldTable(t *testing.T, table [][2]string) {
	rows := make([][2]string, len(table))
	for i, row := range table {
		rows[i][0], _ = get(row[0])
		_, rows[i][1] = get(row[1])
	}
	requestTable(t, rows)
}

// refusedFields runs requests that are refused with 400 for their fields.
func refusedFields(t *testing.T, table []string) {
	rows := make([]string, len(table))
	for i, fields := range table {
		sent, _ := get(fields)
		rows[i] = strings.ReplaceAll(sent, "ORIGIN", "o.test")
	}
	refusedTable(t, 400, rows)
}

func TestR11_UnknownFields(t *testing.T) {
	fields := "X-Unknown: 1\r\nSec-Fetch-Mode: x\r\nx_y: 2\r\n!#$%&'*+-.^_`|~09aZ: 3\r\n"
	fieldTable(t, [][2]string{{fields, fields}})
}

func TestR11_OrderOfDuplicates(t *testing.T) {
	fields := "Cookie: a=1\r\nA: 1\r\nCookie: b=2\r\na: 2\r\nB: 0\r\nA: 1\r\nA:\r\n"
	fieldTable(t, [][2]string{{fields, fields}})
}

func TestR11_NameIsToken(t *testing.T) {
	refusedFields(t, []string{": x\r\n", "A B: x\r\n", "A\x00: x\r\n", "A\x01B: x\r\n", "A\xe9: x\r\n", "A(: x\r\n", "\"A\": x\r\n", "A/B: x\r\n", "A\r\n"})
}

func TestR12_SpaceBeforeColon(t *testing.T) {
	refusedFields(t, []string{"A : x\r\n", "A\t: x\r\n", "Content-Length : 5\r\n", "Transfer-Encoding\t: chunked\r\n"})
}

func TestR13_Fold(t *testing.T) {
	refusedFields(t, []string{"A: x\r\n y\r\n", "A: x\r\n\ty\r\n", "A: x\n y\r\n", "A: x\r\n \r\n", "Transfer-Encoding:\r\n chunked\r\n"})
}

func TestR14_ControlBytes(t *testing.T) {
	refusedFields(t, []string{"A: x\x00y\r\n", "A: \x00\r\n", "A: x\ry\r\n", "A: x\r\r\n", "A: \x01\r\n", "A: \x1f\r\n", "A: \x7f\r\n", "A: \x0b\r\n", "A: \x0c\r\n"})
	fields := "A: x\ty\r\nB: \x80\xff\xc3\xbc\r\n"
	fieldTable(t, [][2]string{{fields, fields}})
}

// Exactly the limit is still good, also when it is more than one buffer and the head
// follows another request.
func TestR15_HeadBytes(t *testing.T) {
	for _, limit := range []int{1000, 50000} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.MaxHeaderBytes = limit
			addr, _ := answering(t, ok200)
			proxy := start(t, p)
			short := "GET http://" + addr + "/ HTTP/1.1\r\nHost: " + addr + "\r\nA: \r\n\r\n"
			for length, status := range map[int]int{limit - 1: 200, limit: 200, limit + 1: 431, 4 * limit: 431} {
				head := strings.Replace(short, "A: ", "A: "+strings.Repeat("x", length-len(short)), 1)
				c := dial(t, proxy)
				c.send(short + head)
				c.wantStatus(200)
				if res, _ := c.response("GET"); res.StatusCode != status || res.Close != (status == 431) {
					t.Errorf("head of %d bytes: %s, close %v; want %d", len(head), res.Status, res.Close, status)
				}
			}
		})
	}
}

func TestR15_EndlessHead(t *testing.T) {
	c := dial(t, start(t, &mitm.Proxy{MaxHeaderBytes: 1000}))
	c.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nA: " + strings.Repeat("x", 1000))
	c.wantStatus(431)
	c.closed()
}

func TestR15_FieldCount(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, _ := answering(t, ok200)
		p.MaxHeaderFields = 20
		proxy := start(t, p)
		for count, status := range map[int]int{19: 200, 20: 200, 21: 431, 1000: 431} {
			c := dial(t, proxy)
			c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: " + addr + "\r\n" + strings.Repeat("a: b\r\n", count-1) + "\r\n")
			c.wantStatus(status)
		}
	})
}

// The limits hold where nothing was configured.
func TestR15_DefaultLimits(t *testing.T) {
	sent, _ := get(strings.Repeat("a: b\r\n", 256))
	refusedTable(t, 431, []string{strings.ReplaceAll(sent, "ORIGIN", "o.test")})
	c := dial(t, start(t, &mitm.Proxy{}))
	c.send("GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nA: " + strings.Repeat("x", 128<<10))
	c.wantStatus(431)
}

func TestR30_HopByHop(t *testing.T) {
	fieldTable(t, [][2]string{
		{"Connection: keep-alive\r\n", ""},
		{"Connection: close\r\n", ""},
		{"Connection:\r\n", ""},
		{"Keep-Alive: timeout=5\r\n", ""},
		{"Proxy-Connection: keep-alive\r\nA: b\r\n", "A: b\r\n"},
		{"Connection: a\r\nA: 1\r\na: 2\r\nB: 3\r\n", "B: 3\r\n"},
		{"A: 1\r\nB: 3\r\nConnection: \tA ,, x,close\r\n", "B: 3\r\n"},
		{"TE: gzip\r\n", ""},
		{"TE: gzip\r\nConnection: TE\r\n", ""},
		{"Upgrade: websocket\r\n", ""},
		{"Connection: upgrade\r\n", ""},
	})
}

func TestR30_EveryConnectionLine(t *testing.T) {
	fieldTable(t, [][2]string{
		{"Connection:\r\nConnection: A\r\nA: 1\r\nB: 2\r\n", "B: 2\r\n"},
		{"Connection: A\r\nC: 3\r\nconnection: B, close\r\nA: 1\r\nB: 2\r\n", "C: 3\r\n"},
	})
}

// Connection can't name so much that it is costly to look each field up in it.
func TestR30_ManyNames(t *testing.T) {
	const most = 64
	names := func(n int) string {
		return "Connection: " + strings.Repeat("a, ", n/2) + "\r\nConnection:" + strings.Repeat("B,", n-n/2) + "\r\n"
	}
	fieldTable(t, [][2]string{{names(most) + "A: 1\r\nb: 2\r\nC: 3\r\n", "C: 3\r\n"}})
	long := "Connection: " + strings.Repeat("x", 2000) + "\r\n"
	refusedTable(t, 400, []string{
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n" + names(most+1) + "\r\n",
		"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n" + long + "\r\n",
	})
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		proxy := start(t, p)
		for fields, status := range map[string]int{names(most): 200, names(most + 1): 502, long: 502} {
			addr, _ := answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"+fields+"\r\n")
			c := dial(t, proxy)
			c.send(headTo(addr, "GET", "/"))
			c.wantStatus(status)
		}
	})
}

func TestR30_ProtectedFields(t *testing.T) {
	requestTable(t, [][2]string{
		{
			"POST http://ORIGIN/ HTTP/1.1\r\nConnection: host, content-length, transfer-encoding\r\nHost: ORIGIN\r\nContent-Length: 2\r\n\r\nab",
			"POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 2\r\n\r\nab",
		}, {
			"POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nConnection: HOST,Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
		},
	})
}

func TestR30_TrailersNamedInConnection(t *testing.T) {
	requestTable(t, [][2]string{{
		"POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nConnection: x-hop\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: ORIGIN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-End: 2\r\n\r\n",
	}})
}

// TE: trailers says something about the client, so it is passed on, as ours.
func TestR30_TETrailers(t *testing.T) {
	fieldTable(t, [][2]string{
		{"Connection: TE\r\nTE: trailers\r\nA: b\r\n", "Connection: TE\r\nTE: trailers\r\nA: b\r\n"},
		{"A: b\r\nTE: gzip, trailers\r\nConnection: close, te\r\nC: d\r\n", "A: b\r\nTE: trailers\r\nConnection: TE\r\nC: d\r\n"},
		{"TE: trailers\r\n", "TE: trailers\r\nConnection: TE\r\n"},
		{"Connection: TE\r\nTE: trailers\r\nTE: trailers\r\n", "Connection: TE\r\nTE: trailers\r\n"},
	})
}

func TestR30_UnusableUpgrades(t *testing.T) {
	fieldTable(t, [][2]string{
		{"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""},
		{"Connection: Upgrade\r\nUpgrade: H2C, HTTP/2.0, TLS/1.2\r\n", ""},
		{"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", ""},
		{
			"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\nHTTP2-Settings: AAMAAABk\r\n",
			"Connection: Upgrade\r\nUpgrade: websocket\r\n",
		},
		{"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: a/1,b\r\n", "Connection: Upgrade\r\nUpgrade: a/1,b\r\n"},
	})
	requestTable(t, [][2]string{{
		"GET http://ORIGIN/ HTTP/1.0\r\nHost: ORIGIN\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
	}})
}

func TestR31_MaxForwards(t *testing.T) {
	for _, method := range []string{"OPTIONS", "TRACE"} {
		requestTable(t, [][2]string{
			{
				method + " http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nmax-forwards: 10\r\n\r\n",
				method + " / HTTP/1.1\r\nHost: ORIGIN\r\nmax-forwards: 9\r\n\r\n",
			}, {
				method + " http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nMax-Forwards: 1\r\n\r\n",
				method + " / HTTP/1.1\r\nHost: ORIGIN\r\nMax-Forwards: 0\r\n\r\n",
			}, {
				method + " http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\n\r\n", // none is invented
				method + " / HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
			},
		})
		for _, bad := range []string{"x", "", "-1", "1, 2", "1\r\nMax-Forwards: 0"} {
			refusedTable(t, 400, []string{method + " http://o.test/ HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: " + bad + "\r\n\r\n"})
		}
	}
	// It has no meaning for other methods.
	fieldTable(t, [][2]string{{"Max-Forwards: 0\r\n", "Max-Forwards: 0\r\n"}, {"Max-Forwards: x\r\n", "Max-Forwards: x\r\n"}})
}

func TestR31_AnsweredHere(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Dial = noWay(t)
		c := dial(t, start(t, p))
		for range 2 { // the connection goes on
			c.send("OPTIONS http://o.test HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\n\r\n")
			res, body := c.response("OPTIONS")
			if res.StatusCode != 200 || body != "" || res.ContentLength != 0 || res.Header.Get("Date") == "" {
				t.Errorf("%s %q %q", res.Status, res.Header, body)
			}
		}
		c.send("OPTIONS http://o.test HTTP/1.1\r\nHost: o.test\r\nMax-Forwards: 0\r\nContent-Length: 2\r\n\r\nab")
		if res, _ := c.response("OPTIONS"); res.StatusCode != 200 || !res.Close {
			t.Errorf("with content: %s, close %v", res.Status, res.Close)
		}
		c.closed()
	})
}

func TestR32_Via(t *testing.T) {
	for _, tt := range []struct{ version, fields, want string }{
		{"1.1", "", "Via: 1.1 me\r\n"},
		{"1.0", "", "Via: 1.0 me\r\n"},
		{"1.1", "Via: 1.0 a, 1.1 b (me)\r\nA: b\r\n", "Via: 1.0 a, 1.1 b (me)\r\nA: b\r\nVia: 1.1 me\r\n"},
	} {
		eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
			p.Via = "me"
			wantForwarded(t, p, "GET http://ORIGIN/ HTTP/"+tt.version+"\r\nHost: ORIGIN\r\n"+tt.fields+"\r\n",
				"GET / HTTP/1.1\r\nHost: ORIGIN\r\n"+tt.want+"\r\n")
		})
	}
}

func TestR29_LoopByVia(t *testing.T) {
	for _, via := range []string{"1.1 me", "1.0 a, 1.1 me (x)", "HTTP/1.1 me", "1.1 a\r\nVia: 1.1 me"} {
		p := &mitm.Proxy{Via: "me"}
		wantRefused(t, p, "GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\nVia: "+via+"\r\n\r\n", 400)
	}
}

func TestR29_LoopByAddress(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr := start(t, p)
		c := dial(t, addr)
		c.send("GET http://" + addr + "/ HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.wantStatus(502)
		c.send("CONNECT " + addr + " HTTP/1.1\r\nHost: " + addr + "\r\n\r\n")
		c.wantStatus(502)
		c.closed()
	})
}

func TestR33_PathAndQuery(t *testing.T) {
	for _, path := range []string{
		"/%7Euser/%2e%2E/../a//b/./;p=1", "/?a=1&b=%20+%2B&a=2;c&&=", "/?", "/a?b?c", "/%", "/%zz?%", "/a|b{c}\"<>^`\\[]",
		"//double", "//h/p", "/http://x/?y=/z", "/:", "/@", "/*", "/a%00b", "/%c3%bc?%C3%BC",
	} {
		requestTable(t, [][2]string{{
			"GET http://ORIGIN" + path + " HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
			"GET " + path + " HTTP/1.1\r\nHost: ORIGIN\r\n\r\n",
		}})
	}
}

// Nothing is invented: not for a request without a single field but Host.
func TestR33_NothingAdded(t *testing.T) {
	fieldTable(t, [][2]string{{"", ""}, {"Accept-Encoding: x\r\nUser-Agent:\r\n", "Accept-Encoding: x\r\nUser-Agent:\r\n"}})
}

func TestR38_TraceEcho(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		p.Dial = noWay(t)
		c := dial(t, start(t, p))
		c.send("TRACE http://o.test/x?y HTTP/1.1\r\nHost: o.test\r\nAUTHORIZATION: Basic c2VjcmV0\r\nA:  b\r\n" +
			"Proxy-Authorization: Basic c2VjcmV0\r\ncookie: s=secret\r\nMax-Forwards: 0\r\n\r\n")
		res, body := c.response("TRACE")
		want := "TRACE http://o.test/x?y HTTP/1.1\r\nHost: o.test\r\nA:  b\r\nMax-Forwards: 0\r\n\r\n"
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "message/http" || body != want {
			t.Errorf("%s %q %q", res.Status, res.Header, body)
		}
	})
}

func TestR40_ExpectInHTTP10(t *testing.T) {
	requestTable(t, [][2]string{
		{
			"POST http://ORIGIN/ HTTP/1.0\r\nHost: ORIGIN\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
			"POST / HTTP/1.1\r\nHost: ORIGIN\r\nContent-Length: 2\r\n\r\nab",
		}, {
			"POST http://ORIGIN/ HTTP/1.1\r\nHost: ORIGIN\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nab",
			"POST / HTTP/1.1\r\nHost: ORIGIN\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nab",
		},
	})
}

func TestR43_Credentials(t *testing.T) {
	kept := "Authorization: Basic YTpi\r\nIf-None-Match: \"a\", W/\"b\"\r\nIf-Modified-Since: yesterday\r\nRange: bytes=0-1\r\nIf-Range: \"a\"\r\n"
	fieldTable(t, [][2]string{{kept + "Proxy-Authorization: Basic YTpi\r\nproxy-authorization: x\r\n", kept}})
}

// Every single byte of a head may come alone.
func TestR01_ByteByByte(t *testing.T) {
	eachEngine(t, func(t *testing.T, p *mitm.Proxy) {
		addr, received := exact(t, "POST /x HTTP/1.1\r\nHost: ORIGIN\r\nA:  b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nC: d\r\n\r\n")
		c := dial(t, start(t, p))
		sent := fmt.Sprintf("\r\nPOST http://%s/x HTTP/1.1\r\nHost: x\r\nA:  b\r\nConnection: e\r\ne: f\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\nC: d\r\n\r\n", addr)
		for i := range len(sent) {
			c.send(sent[i : i+1])
		}
		c.wantStatus(200)
		got := <-received
		want := "POST /x HTTP/1.1\r\nHost: " + addr + "\r\nA:  b\r\nTransfer-Encoding: chunked\r\n\r\n"
		if !strings.HasPrefix(got, want) || dechunk(t, got[len(want):]) != "ab|C: d\r\n" {
			t.Errorf("got %q", got)
		}
	})
}
