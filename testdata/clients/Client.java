import java.io.InputStream;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLHandshakeException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/**
 * Fetches a URL through an HTTP proxy with both versions of TLS and of HTTP, and once without trusting it. Arguments:
 * port of the proxy, URL. The default trust store has the proxy's CA.
 */
public class Client {
	public static void main(String[] args) throws Exception {
		var address = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
		ProxySelector proxy = ProxySelector.of(address);
		HttpRequest request = HttpRequest.newBuilder(URI.create(args[1])).build();
		for (String tls : new String[] {"TLSv1.2", "TLSv1.3"})
			for (HttpClient.Version version : HttpClient.Version.values()) {
				HttpClient client = HttpClient.newBuilder().proxy(proxy).version(version)
						.sslParameters(new SSLParameters(null, new String[] {tls})).build();
				for (int i = 0; i < 2; i++) {
					var response = client.send(request, BodyHandlers.ofString());
					System.out.print(response.sslSession().get().getProtocol() + " " + response.version() + " "
							+ response.statusCode() + " " + response.body());
				}
			}
		for (String tls : new String[] {"TLSv1.2", "TLSv1.3"}) {
			// HttpClient may close before its alert is written; this one does not.
			var connection = (HttpsURLConnection) new URL(args[1]).openConnection(new Proxy(Proxy.Type.HTTP, address));
			connection.setSSLSocketFactory(systemTrust(tls).getSocketFactory());
			try {
				connection.getResponseCode();
				System.out.println("accepted");
			} catch (SSLHandshakeException e) {
				System.out.println("refused");
			}
		}
	}

	/** systemTrust trusts what would be trusted without another trust store, and speaks tls at most. */
	private static SSLContext systemTrust(String tls) throws Exception {
		KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
		try (InputStream in = Files.newInputStream(Path.of(System.getProperty("java.home"), "lib", "security", "cacerts"))) {
			store.load(in, null);
		}
		TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		factory.init(store);
		SSLContext context = SSLContext.getInstance(tls);
		context.init(null, factory.getTrustManagers(), null);
		return context;
	}
}
