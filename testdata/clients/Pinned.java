import java.io.FileInputStream;
import java.io.OutputStream;
import java.net.Socket;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.util.HexFormat;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * Fetches a URL through an HTTP proxy if the server has the certificate with the given SHA-256, which it
 * looks at when the handshake is through. Arguments: proxy port, host, path, a file of CAs, the hash in
 * hex, the version of TLS.
 */
public class Pinned {
	public static void main(String[] args) throws Exception {
		Socket tunnel = new Socket("127.0.0.1", Integer.parseInt(args[0]));
		tunnel.getOutputStream().write(("CONNECT " + args[1] + ":443 HTTP/1.1\r\nHost: " + args[1] + ":443\r\n\r\n").getBytes());
		for (int end = 0; end != 0x0d0a0d0a; end = end << 8 | tunnel.getInputStream().read()) {
		}
		SSLSocket socket = (SSLSocket) trusting(args[3]).getSocketFactory().createSocket(tunnel, args[1], 443, true);
		socket.setEnabledProtocols(new String[] {args[5]});
		socket.startHandshake();
		byte[] hash = MessageDigest.getInstance("SHA-256").digest(socket.getSession().getPeerCertificates()[0].getEncoded());
		if (!HexFormat.of().formatHex(hash).equals(args[4])) {
			socket.close();
			System.exit(1);
		}
		OutputStream out = socket.getOutputStream();
		out.write(("GET " + args[2] + " HTTP/1.1\r\nHost: " + args[1] + "\r\nConnection: close\r\n\r\n").getBytes());
		String response = new String(socket.getInputStream().readAllBytes());
		System.out.print(response.substring(response.indexOf("\r\n\r\n") + 4));
	}

	private static SSLContext trusting(String file) throws Exception {
		KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
		store.load(null, null);
		for (Certificate ca : CertificateFactory.getInstance("X.509").generateCertificates(new FileInputStream(file))) {
			store.setCertificateEntry(String.valueOf(store.size()), ca);
		}
		TrustManagerFactory managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
		managers.init(store);
		SSLContext context = SSLContext.getInstance("TLS");
		context.init(null, managers.getTrustManagers(), null);
		return context;
	}
}
