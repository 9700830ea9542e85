# Fetches a URL through an HTTP proxy if the server has the certificate with the given SHA-256, which
# it looks at when the handshake is through. Arguments: proxy host:port, host, path, a file of CAs, the
# hash in hex, the version of TLS.
import hashlib, http.client, ssl, sys

proxy, host, path, cas, pin, version = sys.argv[1:]
context = ssl.create_default_context(cafile=cas)
context.maximum_version = ssl.TLSVersion[version]
connection = http.client.HTTPSConnection(proxy, context=context)
connection.set_tunnel(host, 443)
connection.connect()
if hashlib.sha256(connection.sock.getpeercert(True)).hexdigest() != pin:
    connection.close()
    sys.exit('not the pinned certificate')
connection.request('GET', path)
print(connection.getresponse().read().decode(), end='')
