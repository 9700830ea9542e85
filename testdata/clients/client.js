// Fetches a URL through an HTTP proxy with both versions of TLS and of HTTP, and once
// without trusting it. Arguments: proxy URL, URL, a CA file that is not the proxy's. The
// proxy's is in NODE_EXTRA_CA_CERTS.
'use strict';
const fs = require('fs'), http = require('http'), http2 = require('http2'), https = require('https'), tls = require('tls');
const [proxy, url, other] = process.argv.slice(2);
const {hostname, port, pathname} = new URL(url);

const tunnel = () => new Promise((done, fail) => {
	const {hostname: host, port: proxyPort} = new URL(proxy);
	const req = http.request({host, port: proxyPort, method: 'CONNECT', path: `${hostname}:${port || 443}`});
	req.on('error', fail).on('connect', (res, socket) => {
		if (res.statusCode === 200) done(socket); else fail(new Error(`CONNECT: ${res.statusCode}`));
	}).end();
});

const secure = async options => {
	const socket = await tunnel();
	return new Promise((done, fail) => {
		const s = tls.connect({socket, servername: hostname, ...options}, () => done(s)).on('error', fail);
	});
};

const collect = stream => new Promise((done, fail) => {
	let text = '';
	stream.setEncoding('utf8').on('data', d => text += d).on('end', () => done(text)).on('error', fail);
});

const overHTTP1 = socket => new Promise((done, fail) => {
	https.request({host: hostname, port: 443, defaultPort: 443, path: pathname, createConnection: () => socket}, res => collect(res).then(text => {
		socket.destroy();
		done(`${res.statusCode} ${text}`);
	}, fail)).on('error', fail).end();
});

const overHTTP2 = socket => new Promise((done, fail) => {
	const session = http2.connect(url, {createConnection: () => socket}).on('error', fail);
	const req = session.request({':path': pathname}).on('error', fail);
	let status;
	req.on('response', fields => status = fields[':status']);
	collect(req).then(text => { session.close(); done(`${status} ${text}`); }, fail);
	req.end();
});

(async () => {
	for (const version of ['TLSv1.2', 'TLSv1.3'])
		for (const protocol of ['http/1.1', 'h2']) {
			const socket = await secure({ALPNProtocols: [protocol], minVersion: version, maxVersion: version});
			const got = `${socket.getProtocol()} ${socket.alpnProtocol}`;
			const text = await (socket.alpnProtocol === 'h2' ? overHTTP2 : overHTTP1)(socket);
			process.stdout.write(`${got} ${text}`);
		}
	await secure({ca: fs.readFileSync(other)}).then(
		() => console.log('accepted'),
		err => console.log(err.code));
})().catch(err => { console.error(err); process.exit(1); });
