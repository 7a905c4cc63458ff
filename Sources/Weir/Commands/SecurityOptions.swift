import ArgumentParser
import Foundation
import Logging
import WeirAlgebra
import WeirServer

/// Who may use the ports, and how much one client may take.
struct SecurityOptions: ParsableArguments {
    // Options that hold a password have no default value: help would show it.
    @Option(
        name: .customLong("password"),
        help: ArgumentHelp(
            "A password that clients must give; other processes can see it in the command line: rather use WEIR_PASSWORD or --password-file.",
            valueName: "password"))
    var passwordOption: String?
    var password: String? { passwordOption ?? Environment.string("password") }
    @Option(
        name: .customLong("password-file"),
        help: ArgumentHelp("A file whose first line is the password that clients must give.", valueName: "file"))
    var passwordFileOption: String?
    var passwordFile: String? { passwordFileOption ?? Environment.string("password-file") }
    @Option(
        name: .customLong("users"),
        help: ArgumentHelp("Users, their rights and password hashes; see docs/OPERATIONS.md.", valueName: "file"))
    var usersOption: String?
    var users: String? { usersOption ?? Environment.string("users") }
    @Flag(help: "Listen on other addresses than loopback although nobody needs a password.")
    var insecure: Bool = Environment.flag("insecure")

    @Option(
        name: .customLong("tls-certificate"),
        help: ArgumentHelp("Both ports speak TLS with this certificate (PEM, with its chain).", valueName: "file"))
    var tlsCertificateOption: String?
    var tlsCertificate: String? { tlsCertificateOption ?? Environment.string("tls-certificate") }
    @Option(name: .customLong("tls-key"), help: ArgumentHelp("The certificate's private key (PEM).", valueName: "file"))
    var tlsKeyOption: String?
    var tlsKey: String? { tlsKeyOption ?? Environment.string("tls-key") }
    @Option(
        name: .customLong("tls-client-ca"),
        help: ArgumentHelp("Clients must show a certificate that one of these signed (PEM).", valueName: "file"))
    var tlsClientCaOption: String?
    var tlsClientCa: String? { tlsClientCaOption ?? Environment.string("tls-client-ca") }

    @Option(help: ArgumentHelp("Connections to the lookups' port at a time.", valueName: "count"))
    var connections: Int = Environment.int("connections") ?? Limits.connectionsMax
    @Option(help: ArgumentHelp("Close connections that send nothing for so long; 0: never.", valueName: "seconds"))
    var idleTimeout: Int = Environment.int("idle-timeout") ?? 0
    @Option(help: ArgumentHelp("Refuse commands that waited for longer than this: the server is overloaded.", valueName: "ms"))
    var queueDelay: Int = Environment.int("queue-delay") ?? Int(Limits.queueDelayMillisecondsMax)

    func validate() throws {
        if (tlsCertificate == nil) != (tlsKey == nil) { throw ValidationError("--tls-certificate and --tls-key belong together") }
        if tlsClientCa != nil, tlsCertificate == nil { throw ValidationError("--tls-client-ca needs --tls-certificate and --tls-key") }
        if !(1...1_000_000).contains(connections) { throw ValidationError("--connections must be between 1 and 1000000") }
        if !(0...31_536_000).contains(idleTimeout) { throw ValidationError("--idle-timeout must be between 0 and 31536000 seconds") }
        if !(1...3_600_000).contains(queueDelay) { throw ValidationError("--queue-delay must be between 1 and 3600000 ms") }
        let passwords = [password, passwordFile, users].compactMap { $0 }
        if passwords.count > 1 { throw ValidationError("give one of --password, --password-file and --users, in the environment too") }
    }
}

/// What guards both ports, as the options ask for it; follows its files.
final class Security: Sendable {
    let authenticator: Authenticator
    let tls: TLSCertificates?
    private let users: (path: String, files: WatchedFiles)?
    private let certificates: WatchedFiles?
    private let logger: Logger
    private let queue = DispatchQueue(label: "weir.reload")

    /// Seconds between two looks at the files.
    private static let interval = 2.0

    /// - Throws: what is wrong with the files, and where an address beyond loopback would be open to everybody.
    init(_ options: SecurityOptions, bind: String, logger: Logger) throws {
        self.logger = logger
        if let path = options.users {
            users = (path, WatchedFiles([path]))
            authenticator = Authenticator(try Security.readUsers(path))
        } else {
            users = nil
            authenticator = Authenticator(password: try Security.password(options))
        }
        if let certificate = options.tlsCertificate, let key = options.tlsKey {
            let files = TLSCertificates.Files(certificate: certificate, key: key, clientAuthority: options.tlsClientCa)
            certificates = WatchedFiles(files.paths)
            tls = try TLSCertificates(files)
        } else {
            certificates = nil
            tls = nil
        }
        if authenticator.isOpen, !options.insecure, !isLoopback(bind) {
            throw CommandFailure(
                "--bind \(bind) would let everybody who reaches this machine use the server: give --users or --password-file; or --insecure "
                    + "if that is meant")
        }
    }

    /// Whether there is anything that can be read again.
    var hasFiles: Bool { users != nil || certificates != nil }

    /// Looks at the files from now on, every few seconds.
    func watch(usersChanged: @escaping @Sendable () -> Void) {
        guard hasFiles else { return }
        queue.asyncAfter(deadline: .now() + Security.interval) { [weak self] in
            self?.check(isForced: false, usersChanged)
            self?.watch(usersChanged: usersChanged)
        }
    }

    /// Reads the files again.
    func reload(usersChanged: @escaping @Sendable () -> Void) {
        queue.async { [self] in check(isForced: true, usersChanged) }
    }

    private func check(isForced: Bool, _ usersChanged: @Sendable () -> Void) {
        if let users, users.files.haveChanged() || isForced {
            reloading("users") {
                authenticator.replace(try Security.readUsers(users.path))
                usersChanged()
            }
        }
        if let certificates, certificates.haveChanged() || isForced {
            reloading("TLS certificate") { try tls?.reload() }
        }
    }

    /// Files that are no good change nothing: the server goes on with what it had.
    private func reloading(_ what: String, _ body: () throws -> Void) {
        do {
            try body()
            logger.notice("the \(what) was read again")
        } catch {
            logger.error("the \(what) stays as it was: \(error)")
        }
    }

    private static func readUsers(_ path: String) throws -> UsersFile { try UsersFile(try text(path), name: path) }

    private static func password(_ options: SecurityOptions) throws -> String? {
        if let password = options.password { return password }
        guard let path = options.passwordFile else { return nil }
        let line = try text(path).prefix { !$0.isNewline }
        guard !line.isEmpty else { throw CommandFailure("\(path): the first line is empty; a password expected") }
        return String(line)
    }

    private static func text(_ path: String) throws -> String {
        let data: Data
        do { data = try Data(contentsOf: URL(fileURLWithPath: path)) } catch {
            throw CommandFailure("cannot read \(path): \(error.localizedDescription)")
        }
        guard let text = String(validating: data, as: UTF8.self) else { throw CommandFailure("\(path) is not UTF-8") }
        return text
    }
}

struct HashPasswordCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "hash-password", abstract: "Print a password's hash for the users file.",
        discussion: "The password is asked for, or read from standard input: never from the command line, which others can see.")

    func run() throws {
        let line: String
        if isatty(0) == 1 {
            guard let typed = getpass("Password: ") else { throw CommandFailure("no password") }
            line = String(cString: typed)
        } else {
            line = readLine() ?? ""
        }
        guard !line.isEmpty else { throw CommandFailure("no password: write it to standard input, in one line") }
        print(try PasswordHash(of: Array(line.utf8)).text)
    }
}
