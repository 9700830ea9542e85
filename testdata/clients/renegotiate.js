// An HTTPS server of TLS 1.2 that asks for a client's certificate at /private only, by a
// renegotiation, once it has read the content, unless it has one already; at /private/now at once. It prints its port and answers with the common name
// of the certificate and the size of the content. Arguments: files of its certificate and its key.
'use strict';
const fs = require('fs'), https = require('https');
const [cert, key] = process.argv.slice(2).map(name => fs.readFileSync(name));

const server = https.createServer({cert, key, maxVersion: 'TLSv1.2'}, (req, res) => {
	let size = 0;
	const name = () => (req.socket.getPeerCertificate().subject || {}).CN;
	const answer = () => res.end(`${name() || 'nobody'} ${size}`);
	const renegotiate = () => {
		req.socket.renegotiate({requestCert: true, rejectUnauthorized: false}, err => err ? req.socket.destroy() : answer());
	};
	if (req.url === '/private/now') return renegotiate();
	req.on('data', data => size += data.length).on('end', () => name() || req.url !== '/private' ? answer() : renegotiate());
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();
