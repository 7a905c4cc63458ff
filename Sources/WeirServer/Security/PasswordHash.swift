import CryptoExtras
import FoundationEssentials

/// A password's scrypt hash (RFC 7914), as text in the PHC string format: `$scrypt$ln=14,r=8,p=5$SALT$HASH`, salt and hash in base64
/// without padding. Other tools (such as Python's passlib) write the same.
package struct PasswordHash: Sendable, Hashable {
    private let logRounds: Int
    private let blockSize: Int
    private let parallelism: Int
    private let salt: [UInt8]
    private let hash: [UInt8]

    /// Bytes that computing one hash may take.
    private static let memoryBytesMax = 256 << 20

    /// Hashes a password with a fresh salt. Takes some 0.2 s and 16 MiB: what OWASP's password storage cheat sheet asks for.
    package init(of password: [UInt8]) throws(ServerError) {
        var generator = SystemRandomNumberGenerator()
        let salt = (0..<16).map { _ in UInt8.random(in: 0...255, using: &generator) }
        try self.init(of: password, logRounds: 14, blockSize: 8, parallelism: 5, salt: salt)
    }

    package init(
        of password: [UInt8], logRounds: Int, blockSize: Int, parallelism: Int, salt: [UInt8]
    ) throws(ServerError) {
        guard
            let hash = PasswordHash.derive(
                password, salt, count: 32, logRounds: logRounds, blockSize: blockSize, parallelism: parallelism)
        else { throw ServerError("the password cannot be hashed") }
        self.logRounds = logRounds
        self.blockSize = blockSize
        self.parallelism = parallelism
        self.salt = salt
        self.hash = hash
    }

    /// Reads a hash; nil for text that is none, or one that would take more than 256 MiB to check.
    package init?(_ text: some StringProtocol) {
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 5, parts[0].isEmpty, parts[1] == "scrypt" else { return nil }
        var numbers: [Substring: Int] = [:]
        for pair in String(parts[2]).split(separator: ",") {
            guard let equals = pair.firstIndex(of: "="), let number = Int(pair[pair.index(after: equals)...]) else { return nil }
            numbers[pair[..<equals]] = number
        }
        guard let logRounds = numbers["ln"], let blockSize = numbers["r"], let parallelism = numbers["p"], numbers.count == 3,
            (1...20).contains(logRounds), (1...32).contains(blockSize), (1...64).contains(parallelism),
            128 * blockSize << logRounds <= PasswordHash.memoryBytesMax,
            let salt = PasswordHash.bytes(parts[3]), let hash = PasswordHash.bytes(parts[4]), (16...64).contains(hash.count)
        else { return nil }
        self.logRounds = logRounds
        self.blockSize = blockSize
        self.parallelism = parallelism
        self.salt = salt
        self.hash = hash
    }

    package var text: String {
        "$scrypt$ln=\(logRounds),r=\(blockSize),p=\(parallelism)$\(PasswordHash.text(salt))$\(PasswordHash.text(hash))"
    }

    /// Computes the password's hash and compares: slow, on purpose.
    package func matches(_ password: [UInt8]) -> Bool {
        PasswordHash.derive(
            password, salt, count: hash.count, logRounds: logRounds, blockSize: blockSize, parallelism: parallelism
        ).map { isEqualInConstantTime($0, hash) } ?? false
    }

    private static func derive(
        _ password: [UInt8], _ salt: [UInt8], count: Int, logRounds: Int, blockSize: Int, parallelism: Int
    ) -> [UInt8]? {
        try? KDF.Scrypt.deriveKey(
            from: password, salt: salt, outputByteCount: count, rounds: 1 << logRounds, blockSize: blockSize,
            parallelism: parallelism, maxMemory: 2 * memoryBytesMax
        ).withUnsafeBytes { [UInt8]($0) }
    }

    private static func bytes(_ base64: Substring.SubSequence) -> [UInt8]? {
        let padding = String(repeating: "=", count: (4 - base64.utf8.count % 4) % 4)
        return Data(base64Encoded: base64 + padding).map { [UInt8]($0) }
    }

    private static func bytes(_ base64: some StringProtocol) -> [UInt8]? {
        bytes(Substring(base64))
    }

    private static func text(_ bytes: [UInt8]) -> String {
        String(Data(bytes).base64EncodedString().prefix { $0 != "=" })
    }
}

/// Compares in a time that depends on the lengths alone, which are those of hashes: the same for all.
func isEqualInConstantTime(_ a: [UInt8], _ b: [UInt8]) -> Bool {
    guard a.count == b.count else { return false }
    var difference: UInt8 = 0
    for index in a.indices { difference |= a[index] ^ b[index] }
    return difference == 0
}
