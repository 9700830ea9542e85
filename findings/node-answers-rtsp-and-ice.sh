#!/usr/bin/env bash
# The HTTP server of Node.js accepts request lines of RTSP and of Icecast sources as HTTP.
#
# Expected: a request line that ends in RTSP/1.0 or ICE/1.0 is not HTTP, so an HTTP server answers 400.
# Seen with Node.js 22.20.0 (llhttp) and 20.20.2: such a request reaches the request handler as HTTP/1.0, with
# any method: GET, DESCRIBE, SOURCE. Only versions with another name are refused. So an intermediary that relays
# "GET /x RTSP/1.0" as a protocol that it does not read relays an HTTP request.
# (RTSP, RFC 7826, has methods of its own; OPTIONS is the only one that it shares with HTTP.)
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund node@22.20.0 >/dev/null
cat >server.js <<'JS'
const net = require('net');
const server = require('http').createServer((req, res) => res.end(`${req.method} ${req.url} ${req.httpVersion}`));
const lines = ['GET /x RTSP/1.0', 'DESCRIBE /x RTSP/1.0', 'SOURCE /x ICE/1.0', 'GET /x SIP/2.0'];
server.listen(0, '127.0.0.1', async () => {
  console.log(process.version);
  for (const line of lines) {
    const answer = await new Promise(resolve => {
      let got = '';
      const c = net.connect(server.address().port, '127.0.0.1').on('data', d => { got += d; }).on('close', () => resolve(got));
      c.end(`${line}\r\nHost: h\r\nConnection: close\r\n\r\n`);
    });
    const [head, body] = answer.split('\r\n\r\n');
    console.log(`${line}: ${head.split('\r\n')[0].slice(9, 12)} ${body || ''}`.trim());
  }
  server.close();
});
JS
./node_modules/.bin/node server.js | tee seen.txt
cat >expected.txt <<'TXT'
v22.20.0
GET /x RTSP/1.0: 200 GET /x 1.0
DESCRIBE /x RTSP/1.0: 200 DESCRIBE /x 1.0
SOURCE /x ICE/1.0: 200 SOURCE /x 1.0
GET /x SIP/2.0: 400
TXT
diff expected.txt seen.txt
