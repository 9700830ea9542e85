package mitm

import (
	"net/http"
	"time"
)

// silence is about a request that its client gave up while nothing came from the origin, not even for
// others: such a connection may be gone, too, though nobody has waited for long enough to say so. A
// connection that is well is heard of soon, since net/http sends a PING after the reset; not after
// each, until there is a response, but then another connection is no great loss. Pings without a
// reason would be: servers of gRPC hang up on those who send them.
type silence struct {
	since time.Time // the client gave up
	heard int64     // of the connection, before
}

// silenceLimit is how long the answer may take.
const silenceLimit = time.Second

// roundTrip sends a request and returns its response.
func (c *http2Origin) roundTrip(req *http.Request) (*http.Response, error) {
	heard := c.conn.heard.Load()
	res, err := c.RoundTrip(req)
	if err != nil && req.Context().Err() != nil && c.conn.heard.Load() == heard {
		if s := c.silence.Load(); s == nil || s.heard != heard {
			c.silence.Store(&silence{time.Now(), heard})
		}
	}
	return res, err
}

// seemsGone reports whether nothing has come since then, for too long.
func (c *http2Origin) seemsGone() bool {
	s := c.silence.Load()
	return s != nil && s.heard == c.conn.heard.Load() && time.Since(s.since) >= silenceLimit
}
