// Fetches a URL through an HTTP proxy, trusting the CAs of a file. Arguments: proxy host:port, host,
// path, file, the version of TLS.
'use strict';
const fs = require('fs'), http = require('http'), https = require('https'), tls = require('tls');
const [proxy, host, path, cas, version] = process.argv.slice(2);
const fail = err => { console.error(err.code); process.exit(1); };

http.request({host: proxy.split(':')[0], port: proxy.split(':')[1], method: 'CONNECT', path: `${host}:443`}).on('connect', (res, socket) => {
	const secure = tls.connect({socket, servername: host, ca: fs.readFileSync(cas), maxVersion: version}, () => {
		https.request({host, path, createConnection: () => secure}, res => {
			res.on('data', data => process.stdout.write(data)).on('end', () => secure.destroy());
		}).on('error', fail).end();
	}).on('error', fail);
}).on('error', fail).end();
