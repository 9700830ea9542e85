"""Fetches a URL through the proxy of the environment with both versions of TLS, and once
without trusting it. Arguments: URL, the proxy's CA file, another CA file."""
import ssl
import sys
import urllib.error
import urllib.request

url, ca, other = sys.argv[1:]

def fetch(context, data=None):
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    with opener.open(url, data, timeout=20) as res:
        return f'HTTP/{res.version / 10} {res.status} {res.read().decode()}'

for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    context = ssl.create_default_context(cafile=ca)
    context.minimum_version = context.maximum_version = version
    for data in None, b'content':
        print(version.name, fetch(context, data), end='')
try:
    print('accepted', fetch(ssl.create_default_context(cafile=other)))
except urllib.error.URLError as err:
    print(err.reason.reason if isinstance(err.reason, ssl.SSLError) else err)
