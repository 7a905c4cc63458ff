import NIOSSL
import Synchronization

/// The certificate that both ports show, from files that may be replaced while the server runs: connections opened later get the new one.
package final class TLSCertificates: Sendable {
    package struct Files: Sendable, Hashable {
        /// PEM: the server's certificate, then those between it and the root.
        package var certificate: String
        /// PEM, without a passphrase.
        package var key: String
        /// PEM: clients must show a certificate that one of these signed. nil: they need none.
        package var clientAuthority: String?

        package init(certificate: String, key: String, clientAuthority: String? = nil) {
            self.certificate = certificate
            self.key = key
            self.clientAuthority = clientAuthority
        }

        package var paths: [String] { [certificate, key] + (clientAuthority.map { [$0] } ?? []) }
    }

    private let files: Files
    private let current: Mutex<NIOSSLContext>

    /// - Throws: `ServerError` that names the file that is missing or no such thing, or a key that is not the certificate's.
    package init(_ files: Files) throws(ServerError) {
        self.files = files
        current = Mutex(try TLSCertificates.load(files))
    }

    /// For connections that are opened now.
    package var context: NIOSSLContext { current.withLock { $0 } }

    /// Reads the files again; what there was stays where they are no good.
    package func reload() throws(ServerError) {
        let context = try TLSCertificates.load(files)
        current.withLock { $0 = context }
    }

    private static func load(_ files: Files) throws(ServerError) -> NIOSSLContext {
        func reading<T>(_ path: String, _ what: String, _ body: () throws -> T) throws(ServerError) -> T {
            do { return try body() } catch { throw ServerError("\(path) holds no \(what) in PEM that can be read: \(error)") }
        }
        let chain = try reading(files.certificate, "certificate") { try NIOSSLCertificate.fromPEMFile(files.certificate) }
        guard !chain.isEmpty else { throw ServerError("\(files.certificate) holds no certificate in PEM") }
        let key = try reading(files.key, "private key") { try NIOSSLPrivateKey(file: files.key, format: .pem) }
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
        configuration.minimumTLSVersion = .tlsv12
        if let authority = files.clientAuthority {
            let roots = try reading(authority, "certificate") { try NIOSSLCertificate.fromPEMFile(authority) }
            guard !roots.isEmpty else { throw ServerError("\(authority) holds no certificate in PEM") }
            configuration.trustRoots = .certificates(roots)
            configuration.certificateVerification = .noHostnameVerification
        }
        do {
            return try NIOSSLContext(configuration: configuration)
        } catch {
            throw ServerError("\(files.key) is not the key of the certificate in \(files.certificate): \(error)")
        }
    }
}
